"""A fitted field with the scene that it was fitted to, ready to be rendered from any pose."""

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home
from teachers.nerf.config import (
    ConfidenceConfig,
    ExecutionConfig,
)
from teachers.nerf.provenance import RenderConfig, render_provenance
from teachers.nerf.quality import FieldRendering
from teachers.nerf.rendered_views import FieldViews, RecordedViews
from teachers.nerf.scene_rays import RayBatch, camera_directions, read_sky_mask
from teachers.nerf.teacher import NerfTeacher

_PACKAGES = ("nerfstudio", "torch", "numpy", "zarr", "icechunk")


class RenderSource:
    """A fitted field with the very inputs that it was fitted to.

    Attributes:
        teacher: The field.
        scene: The version of the scene that it was fitted to, with the poses of the fit.
        is_sky: The version of the sky mask that it was fitted with, or None.
        fit_passed: Outcome of the fit's quality gate.
        fitted_frames: Frames that the field was fitted to; of the others it does not know what moved there.
    """

    def __init__(self, home: Home, scene_key: str, execution: ExecutionConfig) -> None:
        self.home = home
        self.teacher = NerfTeacher.load(home, scene_key, execution)
        assert self.teacher.version is not None
        fitted = home.provenance(self.teacher.version)
        digests = {i.kind: i.digest for i in fitted.inputs}
        self.scene = self.teacher.as_fitted(SceneReader.open(home, scene_key, digests[Kind.SCENE]))
        self.is_sky = read_sky_mask(home, scene_key, digests[Kind.SKY_MASK]) if Kind.SKY_MASK in digests else None
        gate = home.gate(self.teacher.version)
        self.fit_passed = gate is not None and gate.passed
        self.fitted_frames = frozenset(self.teacher.fitted_frames)
        self._directions: dict[tuple[int, tuple[int, int]], Tensor] = {}

    def provenance(self, config: RenderConfig) -> Provenance:
        """Return the provenance of something made from this field."""
        assert self.teacher.version is not None
        return dataclasses.replace(
            render_provenance(self.home, self.teacher.version, config),
            packages=package_versions(*_PACKAGES),
            device=self.teacher.device,
        )

    def rays(
        self, frame: int, camera: int, camera_to_world: Float[np.ndarray, "4 4"], size: tuple[int, int]
    ) -> RayBatch:
        """Return the rays of every pixel, row-major, of a camera's image of that size from any pose.

        Where a fisheye sees nothing, the ray goes along the optical axis: ``is_seen`` tells it apart.
        """
        forward = torch.tensor([0.0, 0.0, 1.0])
        in_camera = torch.where(self.is_seen(camera, size)[:, None], self._directions[camera, size], forward)
        rotation = torch.tensor(camera_to_world[:3, :3], dtype=torch.float32)
        origin = torch.tensor(self.teacher.bounds.to_scene_units(camera_to_world[:3, 3]), dtype=torch.float32)
        count = len(in_camera)
        return RayBatch(
            origins=origin.expand(count, 3),
            directions=in_camera @ rotation.T,
            camera_index=torch.full((count,), camera),
            frame_index=torch.full((count,), frame),
            rgb=torch.zeros(0, 3),
            is_sky=None,
            lidar_depth=torch.full((count,), torch.nan),
            return_moves=torch.zeros(count, dtype=torch.bool),
        )

    def is_seen(self, camera: int, size: tuple[int, int]) -> Bool[Tensor, " pixels"]:
        """Return which pixels of a camera's image of that size lie inside its image circle; all of a pinhole's do."""
        if (camera, size) not in self._directions:
            self._directions[camera, size] = camera_directions(self.scene, camera, size)
        return torch.isfinite(self._directions[camera, size]).all(dim=-1)

    def shows_world(self, camera: int, size: tuple[int, int]) -> Bool[Tensor, " pixels"]:
        """Return which of them do not show the vehicle itself either, if the image is the camera's own."""
        return self.is_seen(camera, size) & torch.from_numpy(self.scene.is_valid(camera, size=size).reshape(-1).copy())

    def render(
        self, frame: int, camera: int, camera_to_world: Float[np.ndarray, "4 4"], size: tuple[int, int]
    ) -> FieldRendering:
        """Render every pixel, row-major; black, transparent and without depth where a fisheye sees nothing."""
        rendered = self.teacher.render(self.rays(frame, camera, camera_to_world, size))
        is_seen = self.is_seen(camera, size)
        return FieldRendering(
            rgb=torch.where(is_seen[:, None], rendered.rgb, 0.0),
            termination_depth=torch.where(is_seen, rendered.termination_depth, torch.nan),
            opacity=torch.where(is_seen, rendered.opacity, 0.0),
        )

    def views(
        self, frame: int, camera: int, poses: Float[np.ndarray, "views 4 4"], size: tuple[int, int]
    ) -> FieldViews:
        """Render a camera from some poses."""
        views = [self.render(frame, camera, pose, size) for pose in poses]
        return FieldViews(
            frame=frame,
            camera=camera,
            poses=poses,
            has_ray=self.is_seen(camera, size).numpy().reshape(size),
            rgb=np.stack([v.rgb.numpy().reshape(*size, 3) for v in views]),
            termination_depth=np.stack([v.termination_depth.numpy().reshape(size) for v in views]),
            opacity=np.stack([v.opacity.numpy().reshape(size) for v in views]),
        )

    def recorded_views(
        self, config: ConfidenceConfig, *, map_size: tuple[int, int], image_size: tuple[int, int]
    ) -> RecordedViews:
        """Return the recorded cameras as witnesses of what this field shows."""
        return RecordedViews(
            self.scene,
            self.views,
            is_sky=self.is_sky,
            fitted_frames=self.fitted_frames,
            max_lidar_m=self.teacher.nerf.losses.max_depth_m,
            map_size=map_size,
            image_size=image_size,
            config=config,
        )

    def intrinsics(self, size: tuple[int, int]) -> Float[np.ndarray, "cameras 3 3"]:
        """Return the intrinsics of every camera's image of that size."""
        return np.stack([self.scene.intrinsics(c, size=size) for c in range(self.scene.num_cameras)])
