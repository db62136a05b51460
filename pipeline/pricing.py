"""Estimate of a run's cost before it starts: bytes from the configuration, hours from earlier runs.

Bytes are the size of the arrays as declared, before compression: an upper limit. Hours come from a home where the same
kinds were built. The time of each build is divided by its amount of work, which follows from its own configuration
(steps and rays of a fit, pixels of a render, steps of a student), and multiplied by the amount that is planned. The
rest of each Dagster run (starting, checking, bookkeeping) was measured there too. Nothing is guessed: what is not known
is listed as unknown, and the assumptions are printed.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
import numpy as np

from pipeline.instance import TASK_NAME_TAG, open_instance
from pipeline.presets import PipelineConfig
from storage.digests import config_json
from storage.kinds import FEATURE_SOURCES, KINDS, Kind, features_kind
from storage.stores import catalog
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home
from teachers.nerf.task import KIND_OF

_BYTES_PER_LIDAR_POINT = 4 * 4
_LIDAR_POINTS_PER_FRAME = 35_000  # a nuScenes sweep
_JPEG_BYTES_PER_PIXEL = 0.12  # measured on nuScenes' 1600 x 900 images
_SOURCE_PIXELS = 1600 * 900
_NOT_OF_EVERY_SCENE = (Kind.SCENE_TRUTH, Kind.OCCUPANCY_LABELS, Kind.WEAK_LABELS)
"""Kinds that only some scenes have or fill: procedural ones, those with labels, and those that a student labels."""

_OF_FIELDS = tuple(KIND_OF.values())
"""Kinds that a run makes only if its student learns from fields."""

_ONCE = (Kind.FEATURE_BASIS, Kind.TRAINING_SET, Kind.STUDENT_CHECKPOINT, Kind.STUDENT_EVALUATION, Kind.REPORT)
"""Kinds that a run makes once for all scenes, the basis once for each feature source."""

OVERHEAD = "starting and checking"
"""Name of the price of what runs take beside building."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Cost of one kind.

    Attributes:
        kind: Kind of the store, or ``OVERHEAD``.
        stored_bytes: All frames together, before compression; None where no configuration says their size.
        hours: Time of one worker on the machine that was measured; None where nothing was.
        is_shared: Whether several workers share the work; a student and what is made from it take the whole machine.
        basis: What the hours stand on.
    """

    kind: str
    stored_bytes: int | None
    hours: float | None = None
    is_shared: bool = True
    basis: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Amount that is planned.

    Attributes:
        scenes: Number of scenes.
        frames: Frames of each scene.
        cameras: Cameras of the rig.
        held_out: Scenes on which the student is judged.
    """

    scenes: int
    frames: int
    cameras: int
    held_out: int = 1

    def __post_init__(self) -> None:
        if min(self.scenes, self.frames, self.cameras) < 1:
            raise ValueError(
                f"scenes, frames and cameras are {self.scenes}, {self.frames} and {self.cameras}, want at least 1"
            )


def price_run(config: PipelineConfig, planned: Workload, *, measured_in: Home | None = None) -> list[Price]:
    """Return the price of every kind of version that a run makes, and of what the runs take beside.

    Args:
        config: Configuration of the run.
        planned: Amount of data.
        measured_in: Home whose builds give the time of a unit of work; None leaves hours unknown.
    """
    measured = {} if measured_in is None else measure_rates(measured_in)
    sizes, prices = bytes_per_frame(config, planned.cameras), []
    settings = _settings(config)
    left_out = _NOT_OF_EVERY_SCENE if config.student.data.reads_field else (*_NOT_OF_EVERY_SCENE, *_OF_FIELDS)
    of_scenes = [k for k, spec in KINDS.items() if spec.partitioned_by == "scene" and k not in left_out]
    for kind in (*of_scenes, *_ONCE):
        is_shared = kind in of_scenes or kind == Kind.FEATURE_BASIS
        times = planned.scenes if kind in of_scenes else len(FEATURE_SOURCES) if kind == Kind.FEATURE_BASIS else 1
        size, rate = sizes.get(Kind(kind)), measured.get(kind)
        stored = None if size is None else round(size * planned.scenes * planned.frames)
        if rate is None:
            prices.append(Price(kind=kind, stored_bytes=stored, is_shared=is_shared))
            continue
        units = _units(kind, settings.get(kind, {}), planned.frames, planned.cameras, planned.held_out)
        hours = rate.seconds_per_unit * units * times / 3600
        basis = f"{rate.builds} builds, {rate.seconds_per_unit * units:.3g} s each here"
        prices.append(Price(kind=kind, stored_bytes=stored, hours=hours, is_shared=is_shared, basis=basis))
    if measured_in is not None and (overhead := measure_overhead(measured_in)) is not None:
        seconds, runs_per_scene = overhead
        prices.append(
            Price(
                kind=OVERHEAD,
                stored_bytes=None,
                hours=seconds * runs_per_scene * planned.scenes / 3600,
                basis=f"{seconds:.1f} s for each of {runs_per_scene:.1f} runs a scene",
            )
        )
    return prices


def wall_hours(prices: Iterable[Price], workers: int) -> float | None:
    """Return the time that known work takes: what is shared, by the number of workers; then the rest, alone."""
    known = [(price.hours, price.is_shared) for price in prices if price.hours is not None]
    if not known:
        return None
    return sum(hours for hours, shared in known if shared) / workers + sum(h for h, shared in known if not shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Time of a unit of work of one kind.

    Attributes:
        seconds_per_unit: Mean over all builds.
        builds: Number of builds.
    """

    seconds_per_unit: float
    builds: int


def measure_rates(home: Home) -> dict[str, Rate]:
    """Return the time of a unit of work of each kind that a home has built."""
    rows = catalog.versions(home.objects).drop_columns(["metrics"]).to_pylist()
    shapes: dict[str, tuple[int, int]] = {}
    for row in rows:
        if row["kind"] == Kind.SCENE and row["partition"] not in shapes:
            metrics = home.metrics(home.require(Kind.SCENE, row["partition"]))
            shapes[row["partition"]] = int(metrics["frames"]), int(metrics["cameras"])
    some = next(iter(shapes.values()), (1, 1))
    seconds: dict[str, float] = defaultdict(float)
    units: dict[str, float] = defaultdict(float)
    builds: dict[str, int] = defaultdict(int)
    for row in rows:
        kind = row["kind"]
        version = home.find(kind, row["partition"], row["digest"])
        if version is None:
            continue
        provenance = home.provenance(version)
        frames, cameras = shapes.get(row["partition"], some)
        try:
            amount = _units(kind, provenance.config, frames, cameras, _scenes_judged(provenance))
        except KeyError:  # of a release whose configuration had other fields: it tells nothing of this one's
            continue
        seconds[kind] += row["wall_time_s"]
        units[kind] += amount
        builds[kind] += 1
    return {
        kind: Rate(seconds_per_unit=seconds[kind] / units[kind], builds=builds[kind]) for kind in seconds if units[kind]
    }


def measure_overhead(home: Home) -> tuple[float, float] | None:
    """Return what a run of a scene takes beside building, seconds, and the number of runs for each scene.

    Runs that built nothing are left out. None if no command has run on the home.
    """
    built = {
        row["digest"]: row["wall_time_s"]
        for row in catalog.versions(home.objects).select(["digest", "wall_time_s"]).to_pylist()
    }
    beside: list[float] = []
    scenes: set[str] = set()
    with open_instance(home.root) as instance:
        done = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS])
        for record in instance.get_run_records(done):
            partition = record.dagster_run.tags.get("dagster/partition", "")
            if TASK_NAME_TAG not in record.dagster_run.tags or "." not in partition:
                continue
            made = _built_in(instance, record.dagster_run.run_id)
            if not made or record.start_time is None or record.end_time is None:
                continue
            work = sum(built.get(digest, 0.0) for digest in made)
            beside.append(max(0.0, record.end_time - record.start_time - work))
            scenes.add(partition)
    return (sum(beside) / len(beside), len(beside) / len(scenes)) if beside else None


def _built_in(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Return the digests of the versions that a run built and did not merely find."""
    found = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        materialization = entry.asset_materialization
        if materialization is not None and materialization.metadata.get("reused") is not None:
            values = {name: materialization.metadata[name].value for name in ("reused", "digest")}
            found += [] if values["reused"] else [str(values["digest"])]
    return found


def _settings(config: PipelineConfig) -> dict[str, Mapping[str, Any]]:
    """Return the configuration of each kind, in the form in which a provenance keeps it."""
    teachers = config.image_teachers
    stages: dict[str, Any] = {
        Kind.INPUT_IMAGES: config.input_images,
        Kind.SKY_MASK: teachers.sky,
        Kind.DEPTH_ANYTHING_FEATURES: teachers.depth_anything,
        **{features_kind(source): teachers.basis_of(source).extractor for source in FEATURE_SOURCES},
        Kind.NERF_TEACHER: config.nerf,
        Kind.TEACHER_DEPTH: config.teacher_depth,
        Kind.VIRTUAL_VIEWS: config.virtual_views,
        Kind.FEATURE_FIELD: config.feature_field,
        Kind.TEACHER_FEATURES: config.teacher_features,
        Kind.STUDENT_CHECKPOINT: config.student,
        Kind.STUDENT_EVALUATION: config.evaluation,
    }
    return {kind: config_json(stage) for kind, stage in stages.items()}


def _units(kind: str, config: Mapping[str, Any], frames: int, cameras: int, held_out: int) -> float:
    """Return the amount of work of one build, in a unit of its own kind.

    Args:
        kind: The kind.
        config: Its configuration, as a provenance keeps it.
        frames: Frames of the scene.
        cameras: Cameras of the rig.
        held_out: Scenes on which a student is judged.
    """
    images = float(frames * cameras)
    if kind == Kind.NERF_TEACHER:
        return float(config["num_steps"] * (config["pixel_rays"] + config["lidar_pixel_rays"] + config["lidar_rays"]))
    if kind == Kind.FEATURE_FIELD:
        return float(config["num_steps"] * config["rays_per_step"] * len(config["feature_sources"]))
    if kind == Kind.VIRTUAL_VIEWS:
        return images * config["height"] * config["width"] * len(config["view_names"])
    if kind in (Kind.TEACHER_DEPTH, Kind.TEACHER_FEATURES):
        return images * config["height"] * config["width"]
    if kind in (Kind.SKY_MASK, Kind.DEPTH_ANYTHING_FEATURES, *map(features_kind, FEATURE_SOURCES)):
        return images * config["input_short_side"] ** 2
    if kind == Kind.STUDENT_CHECKPOINT:
        data = config["data"]
        pixels = data["image_height"] * data["image_width"] + data["render_height"] * data["render_width"]
        return float(config["fit"]["max_steps"] * data["batch_size"] * pixels)
    if kind in (Kind.STUDENT_EVALUATION, Kind.TRANSFER_EVALUATION):
        return float(frames * max(1, held_out))
    return images


def _scenes_judged(provenance: Provenance) -> int:
    """Return the number of scenes that an evaluation read images of; 1 for anything else."""
    return len({item.partition for item in provenance.inputs if item.kind == Kind.INPUT_IMAGES}) or 1


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
