"""Write the Depth Anything features of a scene, and judge the model by its order of LiDAR depths."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from scipy.stats import rankdata

from storage.code import code_digest
from storage.geometry.in_image import LIDAR_NEAR_M
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.scenes.lidar import returns_in_image
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target, write_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.config import DepthAnythingConfig
from teachers.image.depth_anything import FAMILIES, DepthAnything
from teachers.image.extraction import Progress, mark_own_vehicle, provenance_of, version_of
from teachers.image.frame_writer import FrameWriter
from teachers.image.image_batches import iterate_batches, to_float16
from teachers.image.weights import resolve_weights
from teachers.image_evidence import AppearanceLimits, appearance_checks, appearance_of
from teachers.quality import at_least, at_most, gate

KIND = Kind.DEPTH_ANYTHING_FEATURES
DEPTH_LIMITS = AppearanceLimits(max_misplaced_once=None)
"""Limits of how depth features follow their images: a single map of how far things are may look like any."""

_MIN_RETURNS = 20
"""Fewest returns in an image for a meaningful rank correlation, and for a scale and a shift."""
_FARTHEST_M = 200.0
"""Aligned depth beyond which, or behind which, an error would say nothing."""


def extract(
    home: Home,
    reader: SceneReader,
    config: DepthAnythingConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Find or build the depth features of a scene."""
    weights = resolve_weights(config.weights, *FAMILIES)
    scene = version_of(reader)
    provenance = provenance_of(
        home,
        kind=KIND,
        partition=scene.partition,
        inputs=(scene,),
        config=config,
        weights=weights,
        code=code_digest(__name__, kind=KIND),
    )

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return _write(group, reader, DepthAnything(config, weights), on_progress)

    return materialize_arrays(home, provenance, write)


def _write(
    group: zarr.Group,
    reader: SceneReader,
    model: DepthAnything,
    on_progress: ProgressCallback | None,
) -> Mapping[str, Any]:
    config = model.config
    writer = FrameWriter(group, KIND, "features", num_frames=reader.num_frames, num_cameras=reader.num_cameras)
    group.attrs.update(
        {
            "feature_source": "depth_anything",
            "grid_height": config.grid_height,
            "grid_width": config.grid_width,
            "num_channels": model.num_features,
        }
    )
    is_valid = mark_own_vehicle(group, KIND, reader, (config.grid_height, config.grid_width))
    progress = Progress(KIND, reader.num_frames * reader.num_cameras, on_progress)
    non_finite, total, totals_squared = 0, np.zeros(model.num_features), np.zeros(model.num_features)
    count = {"num_frames": reader.num_frames, "num_cameras": reader.num_cameras}
    inverse_depths = FrameWriter(group, KIND, "inverse_depth", **count)
    alignment = np.full((reader.num_frames, reader.num_cameras, 3), np.nan, np.float32)
    correlations: list[float] = []
    for batch in iterate_batches(
        reader,
        range(reader.num_frames),
        short_side=config.input_short_side,
        multiple=model.multiple,
        batch_size=config.inference.batch_size,
    ):
        features, inverse_depth = (x.numpy() for x in model.features_and_inverse_depth(batch.images))
        for index, (frame, camera) in enumerate(batch.indices):
            stored = to_float16(features[index])
            writer.add(frame, camera, stored)
            finite = np.isfinite(stored)
            non_finite += int((~finite).sum())
            values = np.where(finite, stored, 0)[is_valid[camera]].astype(np.float64)
            total += values.sum(axis=0)
            totals_squared += (values**2).sum(axis=0)
            inverse_depths.add(frame, camera, to_float16(inverse_depth[index]))
            predicted, measured = _beside_lidar(reader, frame, camera, inverse_depth[index])
            if len(measured) >= _MIN_RETURNS:
                correlations.append(_rank_correlation(predicted, measured))
                alignment[frame, camera] = align_inverse_depth(predicted, measured)
        progress.advance(len(batch.indices))
    write_target(group, KIND, "alignment", alignment)
    num_images = reader.num_frames * reader.num_cameras
    num_vectors = max(reader.num_frames * int(is_valid.sum()), 1)
    spread = np.sqrt(np.maximum(totals_squared / num_vectors - (total / num_vectors) ** 2, 0.0))
    dead = float((spread <= 1e-6 * max(float(spread.max()), 1e-30)).mean())
    known = correlations
    found = appearance_of(open_target(group, KIND, "features"), reader)
    checks = {
        "non_finite": at_most(non_finite, 0),
        "dead_channels": at_most(dead, 0.5),
        **appearance_checks(found, DEPTH_LIMITS),
    }
    if known:
        checks["lidar_rank_correlation"] = at_least(float(np.median(known)), config.min_lidar_rank_correlation)
    return {
        "num_images": num_images,
        "coverage": 1.0 - non_finite / (num_images * config.grid_height * config.grid_width * model.num_features),
        "non_finite": non_finite,
        "dead_channels": dead,
        "feature_std": float(spread.mean()),
        "lidar_rank_correlation": float(np.median(known)) if known else None,
        "images_with_lidar": len(known),
        "aligned_relative_error": float(np.nanmedian(alignment[..., 2])) if known else None,
        "images_per_s": progress.images_per_second,
        "quality": gate(checks),
    }


def align_inverse_depth(
    predicted: Float[np.ndarray, " returns"], measured: Float[np.ndarray, " returns"]
) -> Float[np.ndarray, "3"]:
    """Return scale and shift that make metres of inverse depth, and the median relative error of depth afterwards.

    ``1 / depth`` is nearest, in least squares, to ``scale * predicted + shift``. The error is measured on the same
    returns. A prediction that is one number everywhere has scale 0.

    Args:
        predicted: The model's inverse depth.
        measured: Depth along the optical axis, metres.
    """
    centred = predicted - predicted.mean()
    variance = float(np.mean(centred**2))
    scale = float(np.mean(centred / measured)) / variance if variance > 0 else 0.0
    shift = float(np.mean(1.0 / measured) - scale * predicted.mean())
    aligned = 1.0 / np.maximum(scale * predicted + shift, 1.0 / _FARTHEST_M)
    return np.array([scale, shift, np.median(np.abs(aligned - measured) / measured)], np.float32)


def _beside_lidar(
    reader: SceneReader, frame: int, camera: int, inverse_depth: Float[np.ndarray, "height width"]
) -> tuple[Float[np.ndarray, " returns"], Float[np.ndarray, " returns"]]:
    """Return predicted inverse depth, and measured depth in metres, at an image's LiDAR returns."""
    height, width = inverse_depth.shape
    seen = returns_in_image(reader, frame, camera, reader.lidar_points(frame), size=(height, width))
    ahead = seen.camera_depth >= LIDAR_NEAR_M  # all of a pinhole's; beside a fisheye, inverse depth orders nothing
    return inverse_depth[seen.row, seen.column][ahead].astype(np.float64), seen.camera_depth[ahead]


def _rank_correlation(predicted: Float[np.ndarray, " returns"], measured: Float[np.ndarray, " returns"]) -> float:
    """Return Spearman's correlation of predicted and measured inverse depth."""
    ranks = rankdata(predicted), rankdata(1.0 / measured)
    if min(each.std() for each in ranks) == 0:
        return 0.0  # a model that sees one depth everywhere orders nothing
    return float(np.corrcoef(*ranks)[0, 1])
