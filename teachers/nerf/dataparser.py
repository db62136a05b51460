"""Scenes of a home for nerfstudio's own methods: ``ns-train nerfacto distillnerf-scene --home ... --scene-key ...``.

nerfstudio reads images, masks and depth from files, so the ones of a scene are written once, below the home's work
folder, where they may be deleted at any time. Poses leave in nerfstudio's OpenGL axes and in scene units, in which the
box of the LiDAR lies in [-1, 1]^3. The shift and the scale that lead there are kept as nerfstudio keeps them, in
``dataparser_transforms.json``: whatever a method says in its units is metres again once divided by that scale. This is
the only place where the project's OpenCV axes meet nerfstudio's OpenGL axes.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from PIL import Image
from torch import Tensor

from storage.geometry.transforms import apply_se3
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.config import NerfConfig
from teachers.nerf.scene_rays import (
    SceneBounds,
    lidar_points_world,
    measure_bounds,
    project_lidar,
    shows_world,
    split_frames,
)

_MAX_SEED_POINTS = 100_000
_DEPTH_STEPS_PER_M = 256.0
"""KITTI's convention of depth in images of 16 bits: 4 mm up to 256 m, and what is further is unknown."""


@dataclass
class SceneDataParserConfig(DataParserConfig):
    """Which scene of which home, and how its images are given out."""

    _target: type = field(default_factory=lambda: SceneDataParser)
    home: Path = Path("runs/default")
    """Home that holds the scene."""
    scene_key: str = ""
    """The scene, <dataset>.<scene_name>."""
    store_url: str | None = None
    """Where the home's array stores live, if not under its root."""
    scene_digest: str = ""
    """Version of the scene; the current one if empty."""
    image_height: int | None = None
    """Height that images are resized to, pixels; as recorded if None."""
    image_width: int | None = None
    """Width that images are resized to, pixels; as recorded if None."""
    holdout_every: int | None = None
    """Every so many frames one is kept for evaluation; as in the project's own fits if None."""

    def __post_init__(self) -> None:
        if (self.image_height is None) != (self.image_width is None):
            raise ValueError(
                f"image_height {self.image_height} and image_width {self.image_width}, want both or neither"
            )


class SceneDataParser(DataParser):
    """Describe a scene of a home to nerfstudio, held-out frames as its ``val`` and ``test`` split."""

    config: SceneDataParserConfig
    includes_time = True

    @cached_property
    def scene(self) -> SceneReader:
        """Return the scene.

        Raises:
            MissingTargetError: If the home does not hold it.
        """
        home = Home(self.config.home, store_url=self.config.store_url)
        return SceneReader.open(home, self.config.scene_key, self.config.scene_digest or None)

    @cached_property
    def frames(self) -> dict[str, tuple[int, ...]]:
        """Return the frames of each split."""
        every = self.config.holdout_every or NerfConfig().holdout_every
        split = split_frames(self.scene.num_frames, holdout_every=every)
        return {"train": split.train, "val": split.held_out, "test": split.held_out}

    @cached_property
    def bounds(self) -> SceneBounds:
        """Return the box that becomes [-1, 1]^3 along its longest side, measured on the frames that are fitted."""
        return measure_bounds(self.scene, self.frames["train"])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Return height and width of the images given out, or None as recorded."""
        height, width = self.config.image_height, self.config.image_width
        return None if height is None or width is None else (height, width)

    def _generate_dataparser_outputs(self, split: str = "train", **_options: object) -> DataparserOutputs:
        frames, scene = self.frames[split], self.scene
        folder = self._folder()
        images = [(f, c) for f in frames for c in range(scene.num_cameras)]
        half = torch.tensor(self.bounds.half_extent)
        masked = any(not scene.is_valid(c).all() for c in range(scene.num_cameras))
        metadata: dict[str, object] = {
            "depth_filenames": [self._depth_file(folder, *image) for image in images],
            "depth_unit_scale_factor": 1.0 / _DEPTH_STEPS_PER_M,
        }
        if split == "train":
            metadata |= _seed_points(scene, frames, self.bounds)
        return DataparserOutputs(
            image_filenames=[self._image_file(folder, *image) for image in images],
            cameras=scene_cameras(scene, frames, self.bounds, self.image_size),
            scene_box=SceneBox(aabb=torch.stack([-half, half])),
            mask_filenames=[self._mask_file(folder, c) for _, c in images] if masked else None,
            metadata=metadata,
            dataparser_transform=torch.cat([torch.eye(3), -torch.tensor([self.bounds.centre_m]).T], dim=1),
            dataparser_scale=1.0 / self.bounds.metres_per_unit,
        )

    def _folder(self) -> Path:
        version = self.scene.version
        assert version is not None
        size = "recorded" if self.image_size is None else "{}x{}".format(*self.image_size)
        home = Home(self.config.home, store_url=self.config.store_url)
        return home.work_folder(version.kind, version.partition) / f"nerfstudio-{version.digest[:16]}-{size}"

    def _image_file(self, folder: Path, frame: int, camera: int) -> Path:
        name = f"{self.scene.camera_names[camera]}/{frame:06d}"
        if self.image_size is None:
            return _written(
                folder / f"{name}.jpg", lambda path: path.write_bytes(self.scene.image_bytes(frame, camera))
            )
        height, width = self.image_size
        return _written(
            folder / f"{name}.png",
            lambda path: _save_png(path, self.scene.resized_image(frame, camera, height=height, width=width)),
        )

    def _mask_file(self, folder: Path, camera: int) -> Path:
        size = self.image_size or self.scene.image_size(camera)
        return _written(
            folder / "masks" / f"{self.scene.camera_names[camera]}.png",
            lambda path: _save_png(
                path, (255 * shows_world(self.scene, camera, size).numpy().reshape(size)).astype(np.uint8)
            ),
        )

    def _depth_file(self, folder: Path, frame: int, camera: int) -> Path:
        """Return where the LiDAR's camera depth is, in steps; 0, which is nerfstudio's "unknown", without a return."""
        scene, size = self.scene, self.image_size or self.scene.image_size(camera)

        def write(path: Path) -> None:
            intrinsics, fisheye = scene.intrinsics(camera, size=size), scene.fisheye(camera)
            pose = scene.camera_to_world(frame, camera)
            points = lidar_points_world(scene, frame)
            pixel, _, index = project_lidar(points, pose, intrinsics, fisheye, image_size=size)
            depth = np.zeros(size[0] * size[1], np.uint16)
            steps = _DEPTH_STEPS_PER_M * apply_se3(np.linalg.inv(pose), points[index])[:, 2]
            depth[pixel] = np.where(steps < np.iinfo(np.uint16).max, steps.round(), 0)
            _save_png(path, depth.reshape(size))

        return _written(folder / "lidar_depth" / scene.camera_names[camera] / f"{frame:06d}.png", write)


def opencv_to_opengl(camera_to_world: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3 4"]:
    """Return poses of OpenCV cameras (y down, z forward) as nerfstudio wants them (y up, z backward)."""
    return camera_to_world[..., :3, :] * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=camera_to_world.dtype)


def scene_cameras(
    scene: SceneReader, frames: tuple[int, ...], bounds: SceneBounds, image_size: tuple[int, int] | None
) -> Cameras:
    """Return the images of some frames as nerfstudio cameras in scene units, frame-major.

    Its fisheye is ours: its distortion grows with the angle, so k1 to k4 mean the same. ``times`` run from 0 at the
    first frame of the scene to 1 at the last. ``metadata`` has ``rig_camera``, the camera of each image.

    Args:
        scene: The scene.
        frames: The frames.
        bounds: The scene's box.
        image_size: Height and width of the images; as recorded if None.
    """
    images = [(f, c) for f in frames for c in range(scene.num_cameras)]
    sizes = [image_size or scene.image_size(c) for _, c in images]
    poses = np.stack([scene.camera_to_world(f, c) for f, c in images])
    poses[:, :3, 3] = bounds.to_scene_units(poses[:, :3, 3])
    intrinsics = np.stack([scene.intrinsics(c, size=size) for (_, c), size in zip(images, sizes, strict=True)])
    lenses = torch.tensor(np.stack([scene.fisheye(c) for _, c in images]), dtype=torch.float32)
    is_fisheye = torch.isfinite(lenses).all(dim=1)
    distortion = torch.nn.functional.pad(lenses.nan_to_num(0.0), (0, 2)) if is_fisheye.any() else None
    k = torch.tensor(intrinsics, dtype=torch.float32)
    return Cameras(
        camera_to_worlds=opencv_to_opengl(torch.tensor(poses, dtype=torch.float32)),
        fx=k[:, 0, 0],
        fy=k[:, 1, 1],
        cx=k[:, 0, 2],
        cy=k[:, 1, 2],
        height=torch.tensor([height for height, _ in sizes])[:, None],
        width=torch.tensor([width for _, width in sizes])[:, None],
        distortion_params=distortion,
        camera_type=[CameraType.FISHEYE if fish else CameraType.PERSPECTIVE for fish in is_fisheye.tolist()],
        times=torch.tensor([f for f, _ in images], dtype=torch.float32)[:, None] / max(1, scene.num_frames - 1),
        metadata={"rig_camera": torch.tensor([c for _, c in images])[:, None]},
    )


def _seed_points(scene: SceneReader, frames: tuple[int, ...], bounds: SceneBounds) -> dict[str, Tensor]:
    """Return LiDAR returns for methods that start from points: positions in scene units, a neutral grey as colour."""
    points = np.concatenate([lidar_points_world(scene, f) for f in frames])
    points = points[:: max(1, len(points) // _MAX_SEED_POINTS)]
    positions = torch.tensor(bounds.to_scene_units(points), dtype=torch.float32)
    return {"points3D_xyz": positions, "points3D_rgb": torch.full(positions.shape, 128, dtype=torch.uint8)}


def _save_png(
    path: Path, pixels: UInt8[np.ndarray, "height width *channels"] | UInt16[np.ndarray, "height width"]
) -> None:
    Image.fromarray(pixels).save(path, format="PNG")


def _written(path: Path, write: Callable[[Path], object]) -> Path:
    """Return a file, written first if it is missing; nobody sees it half written."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        write(aside)
        os.replace(aside, path)
    return path


distillnerf_scene = DataParserSpecification(
    config=SceneDataParserConfig(), description="A scene of a distillnerf home: images, LiDAR depth, metric poses."
)
"""What nerfstudio's registry of dataparsers loads."""
