"""Writer of a recorded scene as part of a rig manifest, for every rig, fisheyes included."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from storage.geometry.transforms import rotation_to_quat_wxyz
from storage.ingest.manifest.manifest import Mounting, Rig, RigCamera, RigLidar, RigManifest, RigScene
from storage.ingest.manifest.writer import ImageEntry, write_manifest, write_scene_tables, write_sweep
from storage.ingest.nuscenes.occ3d import labels_path, write_labels
from storage.procedural.config import ProceduralConfig
from storage.procedural.sensing.rigs import rig_cameras
from storage.procedural.sensing.sensors import LIDAR_NAME, Camera, lidar_to_ego
from storage.procedural.writers.recorder import RecordedFrame, RecordedScene
from storage.scenes.schema import SceneBoxes
from storage.taxonomy import class_named

_POSE_STEP_US = 20_000
_MARGIN_US = 100_000
_LENS_NAMES = ("k1", "k2", "k3", "k4")


class ManifestOutput:
    """Writes one scene, keyframe by keyframe."""

    def __init__(self, root: Path, config: ProceduralConfig, scene: RecordedScene) -> None:
        """Begin the scene under ``root``."""
        self._root, self._config, self._scene = root, config, scene
        self._frames: list[RecordedFrame] = []
        self._images: list[ImageEntry] = []
        self._sweeps: list[str] = []

    def add_frame(self, frame: RecordedFrame) -> None:
        """Write the images, the sweep and the Occ3D labels of a frame; the labels' token is the frame's number."""
        index, scene = len(self._frames), self._scene
        for exposure in frame.exposures:
            file = f"{scene.name}/images/{exposure.name}/{index:06d}.jpg"
            path = self._root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(exposure.view.image).save(path, quality=self._config.jpeg_quality, subsampling=0)
            timestamp_us = scene.start_timestamp_us + exposure.camera.time_us
            self._images.append(ImageEntry(frame=index, camera=exposure.name, timestamp_us=timestamp_us, file=file))
        file, sweep = f"{scene.name}/lidar/{index:06d}.parquet", frame.sweep.sweep
        points = np.concatenate([sweep.points, sweep.intensity[:, None]], axis=1)
        write_sweep(self._root / file, points)
        self._sweeps.append(file)
        write_labels(labels_path(self._root, scene.name, f"{index:06d}"), frame.labels)
        self._frames.append(frame)

    def finish(self) -> RigScene:
        """Write the tables and return the scene's entry in the manifest."""
        scene = self._scene
        last_us = self._frames[-1].time_us
        instants = np.arange(-_MARGIN_US, last_us + _MARGIN_US + _POSE_STEP_US, _POSE_STEP_US)
        poses = np.stack([scene.world.ego_to_world(int(t)) for t in instants])
        return write_scene_tables(
            self._root,
            scene.name,
            self._config.rig,
            pose_timestamp_us=scene.start_timestamp_us + instants,
            ego_to_world=scene.world_to_global @ poses,
            frame_timestamp_us=scene.start_timestamp_us + np.array([f.time_us for f in self._frames]),
            images=self._images,
            lidar_files=self._sweeps,
            boxes=_boxes(self._frames),
            description=scene.description,
            location=scene.location,
        )


def write_rig_manifest(root: Path, config: ProceduralConfig, scenes: Sequence[RigScene], licence: str) -> None:
    """Write ``rig_manifest.json`` over all scenes."""
    cameras = tuple(_rig_camera(camera, config) for camera in rig_cameras(config))
    lidar = RigLidar(name=LIDAR_NAME, lidar_to_ego=_mounting(lidar_to_ego()))
    manifest = RigManifest(
        name=config.dataset,
        version=config.version,
        licence=licence,
        rigs={config.rig: Rig(pixel_origin="corner", cameras=cameras, lidar=lidar)},
        scenes=tuple(scenes),
        description="Procedural driving scenes with exact ground truth.",
    )
    write_manifest(root, manifest)


def _rig_camera(camera: Camera, config: ProceduralConfig) -> RigCamera:
    intrinsics = camera.intrinsics(config.image_height, config.image_width)
    return RigCamera(
        name=camera.name,
        model="pinhole" if camera.fisheye is None else "fisheye",
        width=config.image_width,
        height=config.image_height,
        intrinsics={
            "fx": float(intrinsics[0, 0]),
            "fy": float(intrinsics[1, 1]),
            "cx": float(intrinsics[0, 2]),
            "cy": float(intrinsics[1, 2]),
        },
        distortion=None if camera.fisheye is None else dict(zip(_LENS_NAMES, camera.fisheye, strict=True)),
        camera_to_ego=_mounting(camera.camera_to_ego()),
    )


def _mounting(sensor_to_ego: Float[np.ndarray, "4 4"]) -> Mounting:
    x, y, z = (float(v) for v in sensor_to_ego[:3, 3])
    qw, qx, qy, qz = (float(v) for v in rotation_to_quat_wxyz(sensor_to_ego[:3, :3]))
    return Mounting(translation_m=(x, y, z), rotation_wxyz=(qw, qx, qy, qz))


def _boxes(frames: Sequence[RecordedFrame]) -> SceneBoxes:
    rows = [(index, box) for index, frame in enumerate(frames) for box in frame.annotations]
    if not rows:
        return SceneBoxes.none()
    poses = np.stack([box.box_to_global for _, box in rows])
    return SceneBoxes(
        frame_index=np.array([index for index, _ in rows], np.int64),
        centre=poses[:, :3, 3],
        size=np.array([box.size for _, box in rows], np.float64),
        quat_wxyz=rotation_to_quat_wxyz(poses[:, :3, :3]),
        category=tuple(class_named(box.class_name).nuscenes_category for _, box in rows),
        instance=tuple(f"actor-{box.instance:04d}" for _, box in rows),
        num_lidar_points=np.array([box.num_lidar_points for _, box in rows], np.int64),
    )
