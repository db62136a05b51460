"""Write what a student or a field shows as a Rerun recording (``.rrd``), to be looked at in Rerun's own viewer.

The SDK ``rerun-sdk`` comes with the project's extra ``rerun``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from storage.errors import EnvironmentMissingError, ErrorKind
from storage.geometry.rays import camera_rays, points_on_rays
from storage.geometry.resize import resize_nearest
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.previews.pictures import encode_image, resize_smoothly, to_uint8
from storage.stores.versioned import Home
from student.applications.deployment import DeployedStudent
from student.applications.viewer import SceneView
from student.evaluation.frames import view_images
from student.inference.class_list import ClassList

_POINT_RADIUS_M = 0.06
_APPLICATION = "distillnerf"


class RerunRecording:
    """One recording, a file that is whole when the context ends.

    The world is right-handed with z up; cameras have OpenCV's axes. Two timelines tell steps and seconds.

    Args:
        path: File to write, which must not exist.

    Raises:
        ValueError: If the file exists, or is not called ``.rrd``.
        EnvironmentMissingError: If the SDK is not installed.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".rrd":
            raise ValueError(f"{path}: want a file that ends in .rrd")
        if path.exists():
            raise ValueError(f"{path} exists: want another name")
        try:
            import rerun
        except ImportError as error:
            raise EnvironmentMissingError(
                ErrorKind.ENVIRONMENT_MISSING, "rerun-sdk", "is not installed: pip install rerun-sdk"
            ) from error
        self._sdk: Any = rerun
        self._path = path
        self._aside = path.with_name(f".{path.name}.partial")
        self._recording: Any = None

    def __enter__(self) -> "RerunRecording":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._recording = self._sdk.RecordingStream(_APPLICATION)
        self._recording.save(str(self._aside))
        self._recording.log("world", self._sdk.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._recording.flush()
        self._recording.disconnect()
        if kind is None:
            self._aside.replace(self._path)
        else:
            self._aside.unlink(missing_ok=True)

    def at(self, step: int, time_s: float) -> None:
        """Set the instant of what is logged next."""
        self._recording.set_time("step", sequence=step)
        self._recording.set_time("time", duration=time_s)

    def pose(self, entity: str, pose: Float[np.ndarray, "4 4"]) -> None:
        """Place an entity in the one above it, metres."""
        self._recording.log(entity, self._sdk.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))

    def camera(
        self,
        entity: str,
        pose: Float[np.ndarray, "4 4"],
        intrinsics: Float[np.ndarray, "3 3"] | None,
        image: UInt8[np.ndarray, "height width 3"],
    ) -> None:
        """Log a camera and its image.

        Args:
            entity: Path of the camera.
            pose: Its pose in the entity above.
            intrinsics: In pixels of the image; None for a fisheye, which Rerun has no model of.
            image: Its image.
        """
        self.pose(entity, pose)
        if intrinsics is not None:
            lens = self._sdk.Pinhole(
                image_from_camera=intrinsics,
                resolution=[image.shape[1], image.shape[0]],
                camera_xyz=self._sdk.ViewCoordinates.RDF,
            )
            self._recording.log(entity, lens)
        self.picture(f"{entity}/image", image)

    def picture(self, entity: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Log a picture."""
        encoded = self._sdk.EncodedImage(contents=encode_image(image), media_type="image/jpeg")
        self._recording.log(entity, encoded)

    def points(
        self, entity: str, positions: Float[np.ndarray, "points 3"], colours: UInt8[np.ndarray, "points 3"]
    ) -> None:
        """Log points, metres."""
        self._recording.log(entity, self._sdk.Points3D(positions, colors=colours, radii=_POINT_RADIUS_M))

    def voxels(
        self, entity: str, centres: Float[np.ndarray, "voxels 3"], colours: UInt8[np.ndarray, "voxels 3"], size_m: float
    ) -> None:
        """Log solid cubes, metres."""
        half = np.full((len(centres), 3), size_m / 2)
        boxes = self._sdk.Boxes3D(centers=centres, half_sizes=half, colors=colours, fill_mode="solid")
        self._recording.log(entity, boxes)


def log_view(
    recording: RerunRecording,
    entity: str,
    pose: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    fisheye: Float[np.ndarray, "4"] | None,
    termination_depth: Float[np.ndarray, "height width"],
    rgb: Float[np.ndarray, "_ _ 3"] | None,
    tiles: Mapping[str, UInt8[np.ndarray, "_ _ 3"]],
) -> None:
    """Log what one camera shows: its image, its surface as coloured points, and its pictures.

    Args:
        recording: The recording.
        entity: Path of the camera, in the world.
        pose: Camera to world.
        intrinsics: In pixels of the depth map.
        fisheye: Lens coefficients; None for a pinhole.
        termination_depth: Distance along unit rays, metres; NaN where a ray ends nowhere.
        rgb: Colours around [0, 1], at any size; None if there are none.
        tiles: Pictures by title.
    """
    height, width = termination_depth.shape
    grey = np.full((height, width, 3), 160, np.uint8)
    colours = grey if rgb is None else resize_nearest(to_uint8(rgb), height, width)
    recording.camera(entity, pose, intrinsics if fisheye is None else None, colours)
    origins, directions = camera_rays(intrinsics, pose, height=height, width=width, fisheye=fisheye)
    is_hit = np.isfinite(termination_depth) & np.isfinite(directions).all(axis=-1)
    surface = points_on_rays(origins, directions, termination_depth.astype(np.float64))
    recording.points(f"{entity}_points", surface[is_hit], colours[is_hit])
    for title, picture in tiles.items():
        name = re.sub(r"\W+", "_", title)  # a path of Rerun has no spaces
        recording.picture(f"pictures/{entity.removeprefix('world/')}/{name}", picture)


def record_scene(
    home: Home,
    scene_key: SceneKey | str,
    variant: str,
    path: Path,
    *,
    text_encoder: str = "",
    classes: ClassList | None = None,
    on_frame: Any = None,  # noqa: ANN401 - a callable with the share done
) -> int:
    """Write every frame of a scene as a student sees it: points, voxels by class, cameras; return their number.

    Args:
        home: Home of the student and the scene.
        scene_key: Key of the scene, which need not be one of the training scenes.
        variant: Variant of a student that renders CLIP features.
        path: File to write, which must not exist.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        classes: Own classes in place of Occ3D's.
        on_frame: Called with the share done after every frame.

    Raises:
        ValueError: If the file exists, or is not called ``.rrd``.
        EnvironmentMissingError: If the SDK is not installed.
        MissingTargetError: If the student or a store of the scene is missing.
    """
    recording = RerunRecording(path)
    student = DeployedStudent.open(home, variant, text_encoder=text_encoder)
    view = SceneView(student, student.frames(scene_key), classes=classes)
    reader = view.frames.stores.reader
    with recording:
        for frame in range(reader.num_frames):
            recording.at(frame, (reader.timestamp_us(frame) - reader.timestamp_us(0)) * 1e-6)
            recording.pose("world/vehicle", reader.ego_to_world(frame))
            recording.points("world/vehicle/points", *view.points(frame))
            recording.voxels("world/vehicle/voxels", *view.voxels(frame, "classes"), OCC3D_GRID.voxel_size)
            batch = view.reading(frame).batch
            size = (batch.cameras.render_height, batch.cameras.render_width)
            for camera, (name, image) in enumerate(zip(view.frames.camera_names, view_images(batch), strict=True)):
                is_pinhole = np.isnan(reader.fisheye(camera)).all()
                recording.camera(
                    f"world/vehicle/{name}",
                    reader.camera_to_reference_ego(frame, camera),
                    reader.intrinsics(camera, size=size) if is_pinhole else None,
                    resize_smoothly(to_uint8(image), *size),
                )
            if on_frame is not None:
                on_frame((frame + 1) / reader.num_frames)
    return reader.num_frames
