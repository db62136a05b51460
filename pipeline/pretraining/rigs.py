"""Judge a student by rigs that it never saw: drives of drawn rigs, scored against their LiDAR.

Nothing but the recording is made of such a drive, so it takes seconds where a drive to learn from takes a minute.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pipeline.live import CalibratedCamera, Student, recorded_moment
from pipeline.presets import PipelineConfig
from pipeline.pretraining.drives import unseen_rig
from pipeline.pretraining.scenes import record
from storage.geometry.rays import camera_rays
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.data.lidar import rasterise_lidar
from student.evaluation.baselines import ground_plane_depth
from student.metrics import depth_scores

_FAR_M = 80.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RigScore:
    """What a student makes of one scene by one rig.

    Attributes:
        scene: The scene.
        cameras: Number of cameras.
        focal_share: Focal length divided by the image width, the median of the cameras.
        height_m: Height of the cameras above the ground, the median.
        abs_rel: Mean relative error of termination depth against LiDAR, within 80 m.
        ratio: Median of predicted over true depth; not 1 where the scale is wrong.
        abs_rel_flat: The error of a flat ground.
    """

    scene: str
    cameras: int
    focal_share: float
    height_m: float
    abs_rel: float
    ratio: float
    abs_rel_flat: float


def judge_on_rigs(home: Home, config: PipelineConfig, student: Student, drives: Sequence[int]) -> Iterator[RigScore]:
    """Record drives by rigs that no student learned from, and score a student on two frames of each scene.

    Args:
        home: Home of the recordings; what is there is kept.
        config: How scenes are ingested.
        student: The student.
        drives: Numbers of the drives.

    Yields:
        A score for each scene.
    """
    for index in drives:
        for key in record(home, config, unseen_rig(index)):
            yield score_scene(SceneReader.open(home, key), key, student)


def score_scene(scene: SceneReader, key: SceneKey, student: Student) -> RigScore:
    """Score a student on the first and last frame of a scene; any scene with LiDAR will do."""
    cameras = range(scene.num_cameras)
    predicted, flat, truth = [], [], []
    for frame in sorted({0, scene.num_frames - 1}):
        images, rig = recorded_moment(scene, frame)
        with torch.inference_mode():
            depth = student(images, rig).views.termination_depth
        size = (depth.shape[1], depth.shape[2])
        for camera, own in enumerate(rig):
            truth.append(_lidar(scene, frame, camera, own, size))
            flat.append(_ground(scene, camera, own, size))
        predicted.extend(depth)
    found, true = np.stack(predicted), np.stack(truth)
    with np.errstate(invalid="ignore"):
        is_scored = np.isfinite(found) & (true < _FAR_M)
    return RigScore(
        scene=str(key),
        cameras=len(cameras),
        focal_share=float(np.median([scene.intrinsics(c)[0, 0] / scene.image_size(c)[1] for c in cameras])),
        height_m=float(np.median([scene.camera_to_ego(c)[2, 3] for c in cameras])),
        abs_rel=depth_scores(found, true, clip=False, maximum=_FAR_M).abs_rel,
        ratio=float(np.median(found[is_scored] / true[is_scored])),
        abs_rel_flat=depth_scores(np.stack(flat), true, clip=False, maximum=_FAR_M).abs_rel,
    )


def _lidar(
    scene: SceneReader, frame: int, camera: int, own: CalibratedCamera, size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    return rasterise_lidar(
        scene.lidar_points(frame)[:, :3],
        own.camera_to_ego,
        scene.intrinsics(camera, size=size),
        own.fisheye,
        height=size[0],
        width=size[1],
        min_camera_depth=0.5,
        max_range=_FAR_M,
    )


def _ground(
    scene: SceneReader, camera: int, own: CalibratedCamera, size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    height, width = size
    rays = camera_rays(
        scene.intrinsics(camera, size=size), own.camera_to_ego, height=height, width=width, fisheye=own.fisheye
    )
    return ground_plane_depth(*rays, elsewhere=_FAR_M)


def table(scores: Sequence[RigScore]) -> str:
    """Return the scores as a Markdown table; one wall of a lorry beside a camera weighs heavily in their mean."""
    rows = [
        "| scene | cameras | focal/width | height, m | AbsRel | median ratio | flat ground |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in scores:
        shape = f"{s.cameras} | {s.focal_share:.2f} | {s.height_m:.2f}"
        rows.append(f"| {s.scene} | {shape} | {s.abs_rel:.3f} | {s.ratio:.2f} | {s.abs_rel_flat:.3f} |")
    for name, of_all in (("mean", np.mean), ("median", np.median)):
        own, flat = (float(of_all([getattr(s, figure) for s in scores])) for figure in ("abs_rel", "abs_rel_flat"))
        rows.append(f"| {name} | | | | {own:.3f} | | {flat:.3f} |")
    return "\n".join(rows)
