"""Estimate of a run's cost before it starts: bytes from the configuration, hours from earlier runs.

Bytes are the size of the declared arrays before compression, an upper limit. Hours come from the catalogue of a home in
which the same kinds were built, scaled by frames; otherwise they are unknown.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.presets import PipelineConfig
from storage.stores import catalog
from storage.stores.versioned import Home

_HALF, _FLOAT, _BYTE = 2, 4, 1
_BYTES_PER_LIDAR_POINT = 4 * _FLOAT
_LIDAR_POINTS_PER_FRAME = 35_000  # a nuScenes sweep
_JPEG_BYTES_PER_PIXEL = 0.12  # measured on nuScenes' 1600 x 900 images
_SOURCE_PIXELS = 1600 * 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Cost of one kind.

    Attributes:
        kind: Kind of the store.
        stored_bytes: Bytes of all frames, before compression.
        hours: Hours on the measured machine; None without a measurement.
        basis: Measurement behind the hours.
    """

    kind: str
    stored_bytes: int
    hours: float | None = None
    basis: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def price_run(
    config: PipelineConfig, *, scenes: int, frames: int, cameras: int, measured_in: Home | None = None
) -> list[Price]:
    """Return the price of every kind of store that a run makes.

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
    prices = []
    for kind, per_frame in bytes_per_frame(config, cameras).items():
        rate = rates.get(kind)
        hours = None if rate is None else rate[0] * total / 3600
        basis = "" if rate is None else f"{rate[0]:.2f} s a frame, measured on {rate[1]} frames"
        prices.append(Price(kind=kind, stored_bytes=round(per_frame * total), hours=hours, basis=basis))
    return prices


def bytes_per_frame(config: PipelineConfig, cameras: int) -> dict[str, float]:
    """Return the bytes that one frame of the whole rig takes in each kind of store."""
    images, depth, views = config.input_images, config.teacher_depth, config.virtual_views
    teachers, rendered = config.image_teachers, config.teacher_features
    sky, monocular = teachers.sky, teachers.depth_anything
    per_camera: Mapping[str, float] = {
        "scene": _SOURCE_PIXELS * _JPEG_BYTES_PER_PIXEL,
        "input_images": images.height * images.width * 3 * _BYTE,
        "sky_mask": sky.height * sky.width * (_BYTE + _HALF),
        "depth_anything_features": monocular.grid_height * monocular.grid_width * _depth_channels(config) * _HALF,
        "dinov2_features": _patches(teachers.dinov2) * teachers.dinov2_basis.num_components * _HALF,
        "clip_features": _patches(teachers.clip) * teachers.clip_basis.num_components * _HALF,
        "teacher_depth": depth.height * depth.width * 2 * _HALF,
        "virtual_views": len(views.view_names) * views.height * views.width * (3 * _BYTE + 2 * _HALF),
        "teacher_features": rendered.height * rendered.width * teachers.dinov2_basis.num_components * _HALF,
    }
    prices = {kind: cameras * size for kind, size in per_camera.items()}
    prices["scene"] += _LIDAR_POINTS_PER_FRAME * _BYTES_PER_LIDAR_POINT
    return prices


def measured_rates(home: Home) -> dict[str, tuple[float, int]]:
    """Return seconds per frame, and the number of measured frames, for each kind of a home."""
    frames_of: dict[str, int] = {}
    seconds: dict[str, float] = {}
    frames: dict[str, int] = {}
    rows = catalog.versions(home.root).to_pylist()
    for row in rows:
        if row["kind"] == "scene":
            frames_of[row["partition"]] = int(home.metrics(home.require("scene", row["partition"]))["frames"])
    for row in rows:
        count = frames_of.get(row["partition"])
        if count:
            seconds[row["kind"]] = seconds.get(row["kind"], 0.0) + row["wall_time_s"]
            frames[row["kind"]] = frames.get(row["kind"], 0) + count
    return {kind: (seconds[kind] / frames[kind], frames[kind]) for kind in seconds}


def _patches(extractor: Any) -> int:  # noqa: ANN401 - PatchFeatureConfig
    return extractor.grid_height * extractor.grid_width


def _depth_channels(config: PipelineConfig) -> int:
    return config.student.model.coarse_depth.depth_feature_channels
