"""Estimate of a run's cost before it starts: bytes from the configuration, hours from earlier runs.

Bytes are the size of the arrays as declared, before compression: an upper limit. Hours come from the catalogue of a
home where the same kinds were built, scaled by frames. Neither is guessed: what is not known is listed as unknown.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.presets import PipelineConfig
from storage.kinds import FEATURE_SOURCES, KINDS, Kind, features_kind
from storage.stores import catalog
from storage.stores.versioned import Home

_BYTES_PER_LIDAR_POINT = 4 * 4
_LIDAR_POINTS_PER_FRAME = 35_000  # a nuScenes sweep
_JPEG_BYTES_PER_PIXEL = 0.12  # measured on nuScenes' 1600 x 900 images
_SOURCE_PIXELS = 1600 * 900
_NOT_OF_EVERY_SCENE = (Kind.SCENE_TRUTH, Kind.OCCUPANCY_LABELS, Kind.WEAK_LABELS)
"""Kinds that only some scenes have or fill: procedural ones, those with labels, and those that a student labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Cost of one kind.

    Attributes:
        kind: Kind of the store.
        stored_bytes: All frames together, before compression; None where no configuration says their size.
        hours: On the machine that was measured; None where nothing was.
        basis: What the hours stand on.
    """

    kind: str
    stored_bytes: int | None
    hours: float | None = None
    basis: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def price_run(
    config: PipelineConfig, *, scenes: int, frames: int, cameras: int, measured_in: Home | None = None
) -> list[Price]:
    """Return the price of every kind of store that a run makes of each scene.

    Args:
        config: Configuration of the run.
        scenes: Number of scenes.
        frames: Frames of each scene.
        cameras: Cameras of the rig.
        measured_in: Home whose catalogue gives the time of each kind per frame; None leaves hours unknown.

    Raises:
        ValueError: If a count is not positive.
    """
    if min(scenes, frames, cameras) < 1:
        raise ValueError(f"scenes, frames and cameras are {scenes}, {frames} and {cameras}, want at least 1")
    rates = {} if measured_in is None else measured_rates(measured_in)
    total = scenes * frames
    sizes, prices = bytes_per_frame(config, cameras), []
    for kind, spec in KINDS.items():
        if spec.partitioned_by != "scene" or kind in _NOT_OF_EVERY_SCENE:
            continue
        rate, size = rates.get(kind), sizes.get(spec.name)
        hours = None if rate is None else rate[0] * total / 3600
        basis = "" if rate is None else f"{rate[0]:.2f} s a frame, measured on {rate[1]} frames"
        stored = None if size is None else round(size * total)
        prices.append(Price(kind=kind, stored_bytes=stored, hours=hours, basis=basis))
    return prices


def bytes_per_frame(config: PipelineConfig, cameras: int) -> dict[Kind, float]:
    """Return the bytes that one frame of the whole rig takes, of each kind whose size the configuration says."""
    teachers, views, rendered = config.image_teachers, config.virtual_views, config.teacher_features
    distilled = config.feature_field.feature_sources
    lengths: dict[Kind, dict[str, Any]] = {
        Kind.INPUT_IMAGES: asdict(config.input_images),
        Kind.SKY_MASK: asdict(teachers.sky),
        Kind.DEPTH_ANYTHING_FEATURES: asdict(teachers.depth_anything)
        | {"channels": config.student.model.coarse_depth.depth_feature_channels},
        Kind.TEACHER_DEPTH: asdict(config.teacher_depth),
        Kind.VIRTUAL_VIEWS: asdict(views) | {"views": len(views.view_names)},
        Kind.TEACHER_FEATURES: {
            "grid_height": rendered.height,
            "grid_width": rendered.width,
            **{
                f"{source}_channels": teachers.basis_of(source).num_components * (source in distilled)
                for source in FEATURE_SOURCES
            },
        },
    }
    for source in FEATURE_SOURCES:
        basis = teachers.basis_of(source)
        lengths[features_kind(source)] = asdict(basis.extractor) | {"channels": basis.num_components}
    scene = cameras * _SOURCE_PIXELS * _JPEG_BYTES_PER_PIXEL + _LIDAR_POINTS_PER_FRAME * _BYTES_PER_LIDAR_POINT
    return {Kind.SCENE: scene} | {kind: _array_bytes(kind, {**of, "cameras": cameras}) for kind, of in lengths.items()}


def _array_bytes(kind: Kind, lengths: Mapping[str, Any]) -> int:
    """Return the bytes of one frame of a kind's arrays, as ``storage.kinds`` declares them."""
    per_frame = [array for array in KINDS[kind].arrays.values() if array.axes[0] == "frames"]
    return sum(
        np.dtype(array.dtype).itemsize
        * math.prod(int(axis) if axis.isdigit() else lengths[axis] for axis in array.axes[1:])
        for array in per_frame
    )


def measured_rates(home: Home) -> dict[str, tuple[float, int]]:
    """Return seconds per frame, and the number of measured frames, for each kind of a home."""
    frames_of: dict[str, int] = {}
    seconds: dict[str, float] = {}
    frames: dict[str, int] = {}
    rows = catalog.versions(home.objects).to_pylist()
    for row in rows:
        if row["kind"] == "scene":
            frames_of[row["partition"]] = int(home.metrics(home.require("scene", row["partition"]))["frames"])
    for row in rows:
        count = frames_of.get(row["partition"])
        if count:
            seconds[row["kind"]] = seconds.get(row["kind"], 0.0) + row["wall_time_s"]
            frames[row["kind"]] = frames.get(row["kind"], 0) + count
    return {kind: (seconds[kind] / frames[kind], frames[kind]) for kind in seconds}
