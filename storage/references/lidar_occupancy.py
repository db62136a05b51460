"""Reference occupancy of a scene from its LiDAR alone, as a versioned store.

Beams of many sweeps are brought together by the recorded poses and vote about the voxels of every frame's grid
(:mod:`storage.references.occupancy_votes`). The result knows surfaces and the space before them; everything else is
unknown. The stored version, to which boxes and held-out sweeps testify, is a reference for evaluation and never a
training target. The occupancy head of a student learns from votes that read neither.
"""

import itertools
from collections.abc import Collection, Container, Iterator
from typing import Any

import numpy as np
import zarr
from jaxtyping import Bool, Float

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.geometry.transforms import apply_se3
from storage.geometry.voxel_grid import VoxelGrid
from storage.keys import SceneKey
from storage.kinds import KINDS, Kind
from storage.progress import ProgressCallback
from storage.references.beams import BeamPasses
from storage.references.camera_visibility import seen_by_cameras
from storage.references.config import LidarOccupancyConfig
from storage.references.occupancy_votes import PARTS_PER_AXIS, FrameVotes, vote
from storage.references.point_classes import unknown_names
from storage.references.sweeps import names_of, read_sweeps
from storage.scenes.store import SceneReader
from storage.stores.arrays import create_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED

KIND = Kind.LIDAR_OCCUPANCY
_SAME_INSTANT_S = 1e-3  # clocks jitter
_MAX_CELLS = 96_000_000
"""Cells through which beams are followed at once; they take 384 MB. Longer drives are cut into stretches."""

_MAX_FRAMES = 100
"""Frames of a stretch, whose sweeps are held in memory at once."""


def make_lidar_occupancy(
    home: Home,
    scene_key: SceneKey,
    config: LidarOccupancyConfig,
    *,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Return the LiDAR's occupancy of a scene's current version, making it if it does not exist.

    A frame without returns is unknown everywhere, and counted.

    Args:
        home: Home of the scene and of the occupancy.
        scene_key: The scene.
        config: How beams become voxels.
        on_progress: Called with a stage, the fraction done and numbers worth showing.

    Raises:
        MissingTargetError: If the scene was never ingested.
        IntegrityError: If its store has lost data.
    """
    version = home.require(Kind.SCENE, str(scene_key))
    scene = SceneReader(home.open_arrays(version), version)
    upstream = home.provenance(version)
    provenance = Provenance(
        kind=KIND,
        partition=str(scene_key),
        inputs=(version.as_input,),
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=KIND),
        calibration_digest=upstream.calibration_digest,
        licence=upstream.licence,
        config=config_json(config),
        packages=package_versions("icechunk", "numpy", "scipy", "zarr"),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, *config.grid.shape)
        arrays = {name: create_target(group, KIND, name, shape) for name in KINDS[KIND].arrays}
        source, names = names_of(scene)
        group.attrs.update({"grid": config_json(config.grid), "names_from": source, "surfaces_only": True})
        shares = []
        for frame, votes in votes_of_scene(scene, config):
            label = votes.voxel_label
            is_known = label != OCC3D_UNKNOWN
            is_occupied = is_known & (label != OCC3D_FREE)
            is_visible = seen_by_cameras(scene, frame, config.grid, is_occupied, is_known)
            arrays["voxel_label"][frame] = label
            arrays["num_beams"][frame] = votes.num_beams
            arrays["is_scanned"][frame] = votes.is_scanned
            arrays["is_visible"][frame] = is_visible
            named = np.mean(label[is_occupied] != OCC3D_UNNAMED) if is_occupied.any() else np.nan
            shares.append((is_known.mean(), is_occupied.mean(), is_visible.mean(), named))
            if on_progress is not None:
                on_progress("voxels", len(shares) / scene.num_frames, {"frame": frame, "known": float(is_known.mean())})
        table = np.array(shares, np.float64)
        means = [float(np.nanmean(column)) if np.isfinite(column).any() else None for column in table.T]
        measured = dict(zip(("known_share", "occupied_share", "visible_share", "named_share"), means, strict=True))
        return {
            "frames": scene.num_frames,
            "labelled_frames": int(np.count_nonzero(table[:, 0])),
            **measured,
            "names_from": source,
            "names_without_class": unknown_names(names),
        }

    return materialize_arrays(home, provenance, write)


def votes_of_scene(
    scene: SceneReader,
    config: LidarOccupancyConfig,
    *,
    frames: Container[int] | None = None,
    silent: Collection[int] = (),
    labelled: bool = True,
) -> Iterator[tuple[int, FrameVotes]]:
    """Yield the votes about every frame of a scene, or about some, in order.

    Args:
        scene: The scene.
        config: How beams become voxels.
        frames: Frames to vote about; None for all.
        silent: Frames whose sweeps do not testify, such as those that are held out.
        labelled: Let boxes and classes of points say what moves and what it is called; see :func:`read_sweeps`.

    Raises:
        ValueError: If one of ``frames`` is silent: its own sweep is what the votes are about.
    """
    seconds = np.array([scene.timestamp_us(frame) for frame in range(scene.num_frames)]) * 1e-6
    witnesses = _apart(seconds, config.sweep_interval_s)
    witnesses[sorted(silent)] = False
    for stretch, cells in _stretches(scene, config):
        near = (seconds >= seconds[stretch.start] - config.window_s) & (
            seconds <= seconds[stretch.stop - 1] + config.window_s
        )
        near[sorted(silent)] = False
        read = np.flatnonzero(near).tolist()
        found = read_sweeps(
            scene, read, own_vehicle_m=config.own_vehicle_m, max_beams=config.max_beams, labelled=labelled
        )
        sweeps = dict(zip(read, found, strict=True))
        passes = BeamPasses(grid=cells, reach_m=config.rules.reach_m, clearance_m=config.rules.clearance_m)
        counted: set[int] = set()
        for frame in stretch:
            if frames is not None and frame not in frames:
                continue
            if frame in silent:
                raise ValueError(f"frame {frame} of {scene.version} is silent: nothing can be voted about it")
            within = np.abs(seconds - seconds[frame]) <= config.window_s
            wanted = {frame, *np.flatnonzero(within & witnesses).tolist()}
            for other in counted - wanted:
                passes.add(sweeps[other].beams, sign=-1)
            for other in wanted - counted:
                passes.add(sweeps[other].beams)
            counted = wanted
            order = sorted(wanted)
            testifying = [sweeps[other] for other in order]
            yield frame, vote(testifying, order.index(frame), passes, config.grid, config.rules)


def _apart(seconds: Float[np.ndarray, " frames"], interval: float) -> Bool[np.ndarray, " frames"]:
    """Return a choice of frames of which no two are nearer in time than an interval, with the first."""
    chosen = np.zeros(len(seconds), bool)
    last = -np.inf
    for index, instant in enumerate(seconds.tolist()):
        if instant - last >= interval - _SAME_INSTANT_S:
            chosen[index], last = True, instant
    return chosen


def _stretches(scene: SceneReader, config: LidarOccupancyConfig) -> Iterator[tuple[range, VoxelGrid]]:
    """Yield runs of consecutive frames, each with cells that cover the grids of all of them."""
    corners = np.array(list(itertools.product(*zip(config.grid.minimum, config.grid.maximum, strict=True))))
    size = config.grid.voxel_size / PARTS_PER_AXIS
    first, cells, low, high = 0, None, np.full(3, np.inf), np.full(3, -np.inf)
    for frame in range(scene.num_frames):
        there = apply_se3(scene.ego_to_world(frame), corners)
        wider_low, wider_high = np.minimum(low, there.min(axis=0)), np.maximum(high, there.max(axis=0))
        wider = VoxelGrid.around(wider_low, wider_high, size)
        if cells is not None and (wider.num_voxels > _MAX_CELLS or frame - first >= _MAX_FRAMES):
            yield range(first, frame), cells
            first, wider_low, wider_high = frame, there.min(axis=0), there.max(axis=0)
            wider = VoxelGrid.around(wider_low, wider_high, size)
        cells, low, high = wider, wider_low, wider_high
    if cells is not None:
        yield range(first, scene.num_frames), cells
