"""Write the sky masks of a scene, and judge them as they are stored."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr

from storage.code import code_digest
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.config import SkyConfig
from teachers.image.extraction import Progress, mark_own_vehicle, provenance_of, version_of
from teachers.image.frame_writer import FrameWriter
from teachers.image.image_batches import iterate_batches, to_float16
from teachers.image.segmenter import Segmenter
from teachers.image.sky_evidence import judge_sky
from teachers.image.weights import resolve_weights
from teachers.quality import at_most, gate

KIND = Kind.SKY_MASK

_NO_LABEL = 255
"""The label of pixels that show the vehicle itself."""


def extract(
    home: Home,
    reader: SceneReader,
    segmenter: type[Segmenter],
    config: SkyConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Find or build the sky masks of a scene."""
    weights = resolve_weights(config.weights, *segmenter.families)
    scene = version_of(reader)
    provenance = provenance_of(
        home,
        kind=KIND,
        partition=scene.partition,
        inputs=(scene,),
        config=config,
        weights=weights,
        code=code_digest(__name__, segmenter.__module__, kind=KIND),
    )

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return _write(group, reader, segmenter(config, weights), on_progress)

    return materialize_arrays(home, provenance, write)


def _write(
    group: zarr.Group,
    reader: SceneReader,
    segmenter: Segmenter,
    on_progress: ProgressCallback | None,
) -> Mapping[str, Any]:
    config = segmenter.config
    size = height, width = config.size
    count = {"num_frames": reader.num_frames, "num_cameras": reader.num_cameras}
    masks = FrameWriter(group, KIND, "is_sky", **count)
    probabilities = FrameWriter(group, KIND, "sky_probability", **count)
    semantics = FrameWriter(group, KIND, "image_semantics", **count)
    group.attrs.update({"height": height, "width": width, "threshold": config.threshold})
    if config.keep_semantics:
        group.attrs["labels"] = list(segmenter.labels)
    is_valid = mark_own_vehicle(group, KIND, reader, size)
    num_valid = is_valid.sum(axis=(1, 2))
    progress = Progress(KIND, reader.num_frames * reader.num_cameras, on_progress)
    sky_pixels = np.zeros(reader.num_cameras)
    undecided = non_finite = 0
    for batch in iterate_batches(
        reader,
        range(reader.num_frames),
        short_side=config.input_short_side,
        multiple=segmenter.multiple,
        batch_size=config.inference.batch_size,
    ):
        reading = segmenter.sky(batch.images)
        if reading.semantics is not None:
            for (frame, camera), labels in zip(batch.indices, reading.semantics.numpy(), strict=True):
                semantics.add(frame, camera, np.where(is_valid[camera], labels, np.uint8(_NO_LABEL)))
        for (frame, camera), probability, is_sky in zip(
            batch.indices, reading.probability.numpy(), reading.is_sky.numpy(), strict=True
        ):
            shown = is_valid[camera]
            stored = to_float16(np.where(shown, probability, 0.0))
            mask = is_sky & shown
            masks.add(frame, camera, mask)
            probabilities.add(frame, camera, stored)
            sky_pixels[camera] += mask.sum()
            undecided += int((shown & (probability > 0.1) & (probability < 0.9)).sum())
            non_finite += int((~np.isfinite(stored)).sum())
        progress.advance(len(batch.indices))
    num_images = reader.num_frames * reader.num_cameras
    num_pixels = max(reader.num_frames * int(num_valid.sum()), 1)
    shares_of_sky = sky_pixels / np.maximum(reader.num_frames * num_valid, 1)
    fraction = {name: float(shares_of_sky[i]) for i, name in enumerate(reader.camera_names)}
    sky_fraction = float(shares_of_sky.mean())
    judged = judge_sky(open_target(group, KIND, "is_sky"), reader, max_lidar_on_sky=config.max_lidar_on_sky)
    checks = {
        "non_finite": at_most(non_finite, 0),
        "sky_fraction": at_most(sky_fraction, 0.95),
        **judged.checks,
    }
    return {
        "num_images": num_images,
        "coverage": 1.0 - non_finite / num_pixels,
        "non_finite": non_finite,
        "sky_fraction": sky_fraction,
        "sky_fraction_by_camera": fraction,
        "undecided_fraction": undecided / num_pixels,
        "apparent_sky_fraction": judged.apparent.share,
        "apparent_sky_covered": judged.apparent.covered,
        "lidar_returns": judged.num_returns,
        "lidar_on_sky": judged.lidar_on_sky,
        "images_per_s": progress.images_per_second,
        "quality": gate(checks),
    }
