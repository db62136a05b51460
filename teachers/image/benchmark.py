"""Benchmark of the extraction of features against the network alone: decoding, PCA and storage should cost little."""

import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import BitImageProcessorPil

from storage.ingest.benchmark import write_recording
from storage.ingest.run import ingest_scene
from storage.ingest.source import manifest_source, register_source
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.config import FeatureBasisConfig, PatchFeatureConfig, WeightsConfig
from teachers.image.dinov2 import Dinov2Features
from teachers.image.extract_patches import extract, fit
from teachers.image.image_batches import iterate_batches, normalise
from teachers.image.stand_ins import write_stand_in
from teachers.image.weights import load_processor

_RUNS = 5
_KEY = SceneKey("bench", "drive")
_SOURCE = "facebook/dinov2-small"


def bench_features(*, quick: bool = False) -> dict[str, Any]:
    """Time the whole asset ``dinov2_features`` of a nuScenes-sized drive, in turns with bare batched forward passes.

    The network has DINOv2-small's architecture and random weights, so that no hub is needed.

    Args:
        quick: One frame, and the shipped tiny network, with which the figures mean nothing.

    Returns:
        Images a second of both (medians) and their ratio.
    """
    num_frames = 1 if quick else 4
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        weights = WeightsConfig()
        if not quick:
            write_stand_in(_SOURCE, root / "weights")
            weights = WeightsConfig(source=str(root / "weights"))
        write_recording(root / "recording", num_frames)
        home = Home(root / "home")
        register_source(home, manifest_source(root / "recording"))
        ingest_scene(home, _KEY)
        reader = SceneReader.open(home, str(_KEY))
        config = PatchFeatureConfig(weights=weights)
        fit(home, Dinov2Features, [reader], FeatureBasisConfig(extractor=config))
        model = Dinov2Features.from_config(config)
        processor = load_processor(BitImageProcessorPil, model.weights)
        batches = [
            normalise(processor, batch.images)
            for batch in iterate_batches(
                reader,
                range(num_frames),
                short_side=config.input_short_side,
                multiple=model.multiple,
                batch_size=config.inference.batch_size,
            )
        ]
        ours, reference = [], []
        for run in range(_RUNS + 1):
            begin = time.perf_counter()
            # Another limit of the gate makes another version: an equal one would be found instead of made.
            extract(home, reader, Dinov2Features, replace(config, min_retained_variance=1e-6 * run))
            middle = time.perf_counter()
            with torch.inference_mode():
                for pixels in batches:
                    model.embed(pixels)
            end = time.perf_counter()
            if run > 0:
                ours.append(middle - begin)
                reference.append(end - middle)
    num_images = num_frames * reader.num_cameras
    return {
        "name": "features",
        "ratio": median(reference) / median(ours),
        "ours": num_images / median(ours),
        "reference": num_images / median(reference),
        "unit": "images/s",
        "runs": _RUNS,
        "details": {
            "images": num_images,
            "batch": config.inference.batch_size,
            "network": "shipped" if quick else _SOURCE,
            "short_side": config.input_short_side,
            "threads": torch.get_num_threads(),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        },
    }
