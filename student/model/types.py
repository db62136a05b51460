"""The vocabulary of the student: what goes in, what is predicted per camera, what is rendered.

Frames and units are those of the whole project: OpenCV camera axes, canonical ego frame (x forward,
y left, z up) of the sample's reference time, pixel (0, 0) centred at (0.5, 0.5), metres.

A *rig* is padded, never assumed: samples of one batch may have different numbers of cameras, and what
``camera_is_present`` rules out is not computed at all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Tensors = TypeVar("Tensors")


def to_device(tensors: Tensors, device: torch.device | str) -> Tensors:
    """Return a copy of one of this module's dataclasses with every tensor on ``device``."""
    moved = {
        field.name: value.to(device)
        for field in fields(tensors)  # pyright: ignore[reportArgumentType]
        if isinstance(value := getattr(tensors, field.name), Tensor)
    }
    return replace(tensors, **moved)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraInputs:
    """What the student sees: one reference time, any number of cameras.

    Attributes:
        images: RGB in [0, 1].
        intrinsics: Intrinsics in pixels of ``images``.
        camera_to_reference_ego: Camera (OpenCV axes) at its own exposure to the ego frame at the
            reference time.
        camera_is_present: False marks padding, whose other entries are ignored.
        depth_features: Frozen Depth Anything features on any grid that spans the image, or None for a
            model configured without them.
        fisheye: Lens coefficients k1 to k4 of each fisheye, NaN for a pinhole; None if all are pinholes. Pixels
            outside a fisheye's image circle are not lifted.
        is_valid: Pixels of ``images`` that show the world, and not the vehicle itself; None if all do. The others are
            not looked at and not lifted.
    """

    images: Float[Tensor, "batch cameras 3 height width"]
    intrinsics: Float[Tensor, "batch cameras 3 3"]
    camera_to_reference_ego: Float[Tensor, "batch cameras 4 4"]
    camera_is_present: Bool[Tensor, "batch cameras"]
    depth_features: Float[Tensor, "batch cameras channels grid_height grid_width"] | None = None
    fisheye: Float[Tensor, "batch cameras 4"] | None = None
    is_valid: Bool[Tensor, "batch cameras height width"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCameras:
    """The views to render.

    Attributes:
        intrinsics: Intrinsics in pixels of the render grid (``render_height`` by ``render_width``). The decoded
            image is twice that size.
        camera_to_reference_ego: Target camera to the ego frame of the *inputs'* reference time.
        target_is_present: False marks padding: not rendered, opacity 0, depth NaN.
        render_height: Rows of the render grid.
        render_width: Columns of the render grid.
        fisheye: Lens coefficients as of :class:`CameraInputs`. Rays outside an image circle are not rendered.
        is_valid: Pixels of the render grid whose target shows the world; None if all do. The others are not rendered,
            like those outside an image circle.
    """

    intrinsics: Float[Tensor, "batch targets 3 3"]
    camera_to_reference_ego: Float[Tensor, "batch targets 4 4"]
    target_is_present: Bool[Tensor, "batch targets"]
    render_height: int
    render_width: int
    fisheye: Float[Tensor, "batch targets 4"] | None = None
    is_valid: Bool[Tensor, "batch targets render_height render_width"] | None = None

    def __post_init__(self) -> None:
        """Reject an empty render grid."""
        if self.render_height < 1 or self.render_width < 1:
            raise ValueError(f"render grid must not be empty, got {self.render_height}x{self.render_width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySamples:
    """The samples of all rays that lie in occupied voxels, ray after ray, near to far.

    Samples in empty space have neither density nor weight and are not listed. A ray through empty space alone lists no
    sample. Line-of-sight losses read these.

    Attributes:
        ray_index: Ray of each sample, ascending: ``(batch * targets + target) * height * width + pixel``.
        distances: Distance along the unit ray, metres.
        lengths: Length of ray that the sample stands for, metres.
        weights: Compositing weight in [0, 1]; those of one ray sum to its opacity.
    """

    ray_index: Int[Tensor, " samples"]
    distances: Float[Tensor, " samples"]
    lengths: Float[Tensor, " samples"]
    weights: Float[Tensor, " samples"]

    def between(self, begin: int, end: int, *, first_ray: int) -> "RaySamples":
        """Return the samples from ``begin`` to before ``end``, their rays counted from ``first_ray``."""
        return RaySamples(
            ray_index=self.ray_index[begin:end] - first_ray,
            distances=self.distances[begin:end],
            lengths=self.lengths[begin:end],
            weights=self.weights[begin:end],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraDepth:
    """The two depth estimates of every input camera, on the depth grid (the image, or a fraction of it).

    Attributes:
        coarse_termination_depth: Expectation over depth bins along the unit ray, metres. NaN at padding and outside
            a fisheye's image circle, defined everywhere else.
        coarse_opacity: Sum of ``coarse_weights`` over bins, in [0, 1]. 0 where there is no ray.
        coarse_weights: Probability that the ray ends in each bin; sums to at most 1 over bins. 0 where there is no ray.
        coarse_edges: Edges of the bins, metres, ascending. The same for every pixel.
        fine_termination_depth: Expectation over the fine candidates around the coarse depth, metres.
            NaN where there is no ray and where their opacity is below the configured minimum.
        fine_opacity: Opacity over the candidates, in [0, 1]. 0 where there is no ray.
    """

    coarse_termination_depth: Float[Tensor, "batch cameras depth_height depth_width"]
    coarse_opacity: Float[Tensor, "batch cameras depth_height depth_width"]
    coarse_weights: Float[Tensor, "batch cameras bins depth_height depth_width"]
    coarse_edges: Float[Tensor, " edges"]
    fine_termination_depth: Float[Tensor, "batch cameras depth_height depth_width"]
    fine_opacity: Float[Tensor, "batch cameras depth_height depth_width"]

    def split(self) -> tuple["CameraDepth", ...]:
        """Return the depth of each sample as a batch of one."""
        batch_size = len(self.coarse_opacity)
        return tuple(replace(self, **_only(self, _DEPTH_BY_SAMPLE, index)) for index in range(batch_size))


_DEPTH_BY_SAMPLE = ("coarse_termination_depth", "coarse_opacity", "coarse_weights")
_DEPTH_BY_SAMPLE += ("fine_termination_depth", "fine_opacity")
_VIEWS_BY_SAMPLE = ("termination_depth", "opacity", "weight_entropy", "is_seen")


def _only(whole: object, names: Iterable[str], index: int) -> dict[str, Tensor]:
    return {name: getattr(whole, name)[index : index + 1] for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Target views rendered from a voxel field.

    Attributes:
        image: RGB around [0, 1], not clamped (losses need the gradient outside); None for a model
            without an RGB decoder.
        termination_depth: Expected distance along the unit ray given that it hits something, metres.
            NaN where ``opacity`` is under the configured minimum, and at padding.
        opacity: Sum of weights along the ray, in [0, 1]. ``1 - opacity`` is what the sky gets.
        weight_entropy: ``-sum w log w`` over each ray's samples: 0 for a single hard surface.
        is_seen: Whether the pixel has a ray: False at padding, outside a fisheye's image circle and where the target
            is said not to show the world, where opacity is 0
            and depth NaN.
        features: Foundation features in [0, 1] by source name ("clip", "dinov2"), in the space of the
            stored, basis-reduced targets.
        samples: The weights behind the depth, for losses along rays.
        composited: What the decoder and the heads read: field features along each ray, and the sky's behind them.
    """

    image: Float[Tensor, "batch targets 3 image_height image_width"] | None
    termination_depth: Float[Tensor, "batch targets height width"]
    opacity: Float[Tensor, "batch targets height width"]
    weight_entropy: Float[Tensor, "batch targets height width"]
    is_seen: Bool[Tensor, "batch targets height width"]
    features: Mapping[str, Float[Tensor, "batch targets _ height width"]]
    samples: RaySamples
    composited: Float[Tensor, "batch targets channels height width"] | None = None

    @property
    def sky_probability(self) -> Float[Tensor, "batch targets height width"]:
        """The share of each ray that ends at infinity."""
        return 1.0 - self.opacity


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOutput(Rendering):
    """A rendering together with the per-camera depths that its voxels were lifted from.

    Attributes:
        coarse_termination_depth: See :class:`CameraDepth`, as are the next five.
        coarse_opacity: See :class:`CameraDepth`.
        coarse_weights: See :class:`CameraDepth`.
        coarse_edges: See :class:`CameraDepth`.
        fine_termination_depth: See :class:`CameraDepth`.
        fine_opacity: See :class:`CameraDepth`.
        surface_features: Foundation features by source, of the place where each pixel's ray is known to end, whatever
            the field's density; empty if no such depth was given.
        has_surface: Pixels whose ray is known to end in a cell that some input filled; ``surface_features`` of the
            others are 0. None if no depth was given.
        num_voxels: Occupied cells of the whole batch by level name ("coarse", "fine").
    """

    coarse_termination_depth: Float[Tensor, "batch cameras depth_height depth_width"]
    coarse_opacity: Float[Tensor, "batch cameras depth_height depth_width"]
    coarse_weights: Float[Tensor, "batch cameras bins depth_height depth_width"]
    coarse_edges: Float[Tensor, " edges"]
    fine_termination_depth: Float[Tensor, "batch cameras depth_height depth_width"]
    fine_opacity: Float[Tensor, "batch cameras depth_height depth_width"]
    num_voxels: Mapping[str, int]
    surface_features: Mapping[str, Float[Tensor, "batch targets _ height width"]] = field(default_factory=dict)
    has_surface: Bool[Tensor, "batch targets height width"] | None = None

    def split(self) -> tuple["StudentOutput", ...]:
        """Return the output of each sample as a batch of one. ``num_voxels`` still counts the whole batch."""
        batch_size, num_targets, height, width = self.opacity.shape
        if batch_size == 1:
            return (self,)
        edges = torch.arange(batch_size + 1, device=self.opacity.device) * (num_targets * height * width)
        bounds = torch.searchsorted(self.samples.ray_index.contiguous(), edges).tolist()
        return tuple(
            replace(
                self,
                image=None if self.image is None else self.image[index : index + 1],
                features={source: values[index : index + 1] for source, values in self.features.items()},
                surface_features={
                    source: values[index : index + 1] for source, values in self.surface_features.items()
                },
                has_surface=None if self.has_surface is None else self.has_surface[index : index + 1],
                samples=self.samples.between(bounds[index], bounds[index + 1], first_ray=int(edges[index])),
                **_only(self, (*_VIEWS_BY_SAMPLE, *_DEPTH_BY_SAMPLE), index),
            )
            for index in range(batch_size)
        )
