"""Content of a training batch: inputs, the views to render, and the targets of both.

Undefined depth is NaN and unknown sky is marked as unknown. A loss that forgets a mask gives NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from student.model.types import CameraInputs, TargetCameras, Tensors, to_device


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTargets:
    """Depth targets of the input images, on the model's depth grid.

    Attributes:
        lidar_depth: Termination depth of the LiDAR returns, metres. NaN where none fell.
        teacher_depth: Termination depth by the scene teacher, metres. NaN where it is undefined.
        is_sky: True where the pixel shows sky; meaningless where ``is_sky_known`` is False.
        is_sky_known: True where a mask exists and no return contradicts it.
    """

    lidar_depth: Float[Tensor, "batch cameras depth_height depth_width"]
    teacher_depth: Float[Tensor, "batch cameras depth_height depth_width"]
    is_sky: Bool[Tensor, "batch cameras depth_height depth_width"]
    is_sky_known: Bool[Tensor, "batch cameras depth_height depth_width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewTargets:
    """Targets of the rendered views. Camera views come first, virtual views after them.

    Attributes:
        image: RGB in [0, 1] of the camera views, twice the render grid.
        virtual_image: RGB in [0, 1] of the virtual views, at the teacher's own resolution.
        virtual_is_valid: Pixels of them that can be learned from; the values of others are arbitrary.
        lidar_depth: Termination depth of the LiDAR returns on the render grid, metres. NaN where none fell, and in
            virtual views, whose pose the sensor never had.
        teacher_depth: Termination depth by the scene teacher, metres. NaN where it is undefined.
        is_sky: True where the pixel shows sky; meaningless where ``is_sky_known`` is False.
        is_sky_known: True where a mask exists and no return contradicts it.
        features: Reduced foundation features of the camera views, in [0, 1], by source. Each grid spans the image.
    """

    image: Float[Tensor, "batch real 3 image_height image_width"]
    virtual_image: Float[Tensor, "batch virtual 3 virtual_height virtual_width"]
    virtual_is_valid: Bool[Tensor, "batch virtual virtual_height virtual_width"]
    lidar_depth: Float[Tensor, "batch real+virtual height width"]
    teacher_depth: Float[Tensor, "batch real+virtual height width"]
    is_sky: Bool[Tensor, "batch real+virtual height width"]
    is_sky_known: Bool[Tensor, "batch real+virtual height width"]
    features: Mapping[str, Float[Tensor, "batch real _ _ _"]]

    @property
    def num_real(self) -> int:
        """Return the number of camera views per sample, padding included."""
        return self.image.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """Frames with their inputs, cameras and targets.

    Attributes:
        keys: Identity of each frame, ``<scene key>/<frame index>``.
        inputs: Images and cameras that the student sees.
        cameras: Views to render.
        input_targets: Depth targets of the inputs.
        view_targets: Targets of the views.
    """

    keys: tuple[str, ...]
    inputs: CameraInputs
    cameras: TargetCameras
    input_targets: InputTargets
    view_targets: ViewTargets

    def to(self, device: torch.device | str) -> "TrainingBatch":
        """Return the same batch with every tensor on ``device``."""
        features = {source: values.to(device) for source, values in self.view_targets.features.items()}
        return replace(
            self,
            inputs=to_device(self.inputs, device),
            cameras=to_device(self.cameras, device),
            input_targets=to_device(self.input_targets, device),
            view_targets=replace(to_device(self.view_targets, device), features=features),
        )

    def split(self) -> tuple["TrainingBatch", ...]:
        """Return each frame as a batch of one; :func:`concatenate` is the inverse."""
        if len(self.keys) == 1:
            return (self,)
        return tuple(
            TrainingBatch(
                keys=(key,),
                inputs=_select(self.inputs, index),
                cameras=_select(self.cameras, index),
                input_targets=_select(self.input_targets, index),
                view_targets=_select(self.view_targets, index),
            )
            for index, key in enumerate(self.keys)
        )

    def parts(self, number: int) -> tuple["TrainingBatch", ...]:
        """Return the batch cut into ``number`` parts of the same size; its size must be a multiple of ``number``."""
        size, rest = divmod(len(self.keys), number)
        if rest:
            raise ValueError(f"a batch of {len(self.keys)} frames cannot be cut into {number} equal parts")
        if number == 1:
            return (self,)
        frames = self.split()
        return tuple(concatenate(frames[index * size : (index + 1) * size]) for index in range(number))


def concatenate(batches: Sequence[TrainingBatch]) -> TrainingBatch:
    """Join batches that agree in their grids and numbers of cameras and views."""
    return TrainingBatch(
        keys=tuple(key for batch in batches for key in batch.keys),
        inputs=_concatenate_fields([batch.inputs for batch in batches]),
        cameras=_concatenate_fields([batch.cameras for batch in batches]),
        input_targets=_concatenate_fields([batch.input_targets for batch in batches]),
        view_targets=_concatenate_fields([batch.view_targets for batch in batches]),
    )


def _concatenate_fields(parts: Sequence[Tensors]) -> Tensors:
    first = parts[0]
    joined = {}
    for name in (field.name for field in fields(first)):  # pyright: ignore[reportArgumentType]
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Tensor):
            joined[name] = torch.cat(values)
        elif isinstance(values[0], Mapping):
            joined[name] = {key: torch.cat([value[key] for value in values]) for key in values[0]}
    return replace(first, **joined)  # pyright: ignore[reportArgumentType]


def _select(part: Tensors, index: int) -> Tensors:
    selected = {}
    for name in (field.name for field in fields(part)):  # pyright: ignore[reportArgumentType]
        value = getattr(part, name)
        if isinstance(value, Tensor):
            selected[name] = value[index : index + 1]
        elif isinstance(value, Mapping):
            selected[name] = {key: inner[index : index + 1] for key, inner in value.items()}
    return replace(part, **selected)  # pyright: ignore[reportArgumentType]
