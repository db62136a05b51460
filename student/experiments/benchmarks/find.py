"""Benchmark of a search over a thousand scenes: regions of an index against every cell of the feature maps."""

import tempfile

import numpy as np
import zarr

from storage.digests import config_digest, config_json
from storage.kinds import Kind
from storage.scenes.growing_array import GrowingArray
from storage.stores.arrays import write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from student.applications.find import TextQuestion, best_regions
from student.applications.region_index import ROWS_PER_CHUNK, IndexedScene, RegionIndex, RegionIndexConfig
from student.experiments.benchmarks.timing import BenchRecord, seconds
from student.inference.prompts import query_prompts
from student.inference.vocabulary import Vocabulary

_FRAMES, _CAMERAS, _REGIONS_PER_IMAGE = 40, 6, 27
_GRID_CELLS = 32 * 56
_CHANNELS, _DIMENSION = 64, 512


def bench_find(*, runs: int = 3, scenes: int = 1000, quick: bool = False) -> BenchRecord:
    """Time a text with the whole vocabulary as negatives: scores of all regions, and the best 24 of them.

    Content is random; what takes time is its amount. The reference compares every cell of feature maps of 32 x 56 in
    memory, on one scene, and is multiplied.

    Args:
        runs: Runs of each.
        scenes: Number of scenes, each of 40 frames of six cameras.
        quick: Take ten scenes and one run.
    """
    scenes, runs = (10, 1) if quick else (scenes, runs)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as root:
        index = _random_index(Home(root), scenes, rng)
        prompts = query_prompts("tow bar")
        embeddings = rng.normal(size=(len(prompts.flat_concepts), _DIMENSION)).astype(np.float32)
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        vocabulary = Vocabulary(prompts=prompts, embeddings=embeddings, basis=index.basis)
        question = TextQuestion(vocabulary=vocabulary, temperature=0.01)
        cells = rng.uniform(size=(_FRAMES, _CAMERAS * _GRID_CELLS, _CHANNELS)).astype(np.float16)

        def ours() -> object:
            return best_regions(index, question, number=24, per_scene=6)

        def reference() -> object:
            return [question.score(frame.astype(np.float32)).max() for frame in cells]

        own = float(np.median([seconds(ours) for _ in range(runs)]))
        other = scenes * float(np.median([seconds(reference) for _ in range(runs)]))
        return BenchRecord(
            name="find",
            ratio=other / own,
            ours=own,
            reference=other,
            unit="s",
            runs=runs,
            details={
                "scenes": scenes,
                "images": scenes * _FRAMES * _CAMERAS,
                "regions": index.num_rows,
                "channels": _CHANNELS,
                "concepts": len(prompts.flat_concepts),
                "index_mb": index.num_rows * (_CHANNELS + 12) / 1e6,
            },
        )


def _random_index(home: Home, scenes: int, rng: np.random.Generator) -> RegionIndex:
    components = np.linalg.qr(rng.normal(size=(_DIMENSION, _CHANNELS)))[0].astype(np.float32)
    arrays = {
        "mean": rng.normal(size=_DIMENSION).astype(np.float32) / _DIMENSION,
        "components": components,
        "minimum": np.full(_CHANNELS, -0.5, np.float32),
        "maximum": np.full(_CHANNELS, 0.5, np.float32),
        "explained_variance_ratio": np.full(_CHANNELS, 1 / _CHANNELS, np.float32),
    }

    def write_basis(group: zarr.Group) -> dict[str, float]:
        for name, values in arrays.items():
            write_target(group, Kind.FEATURE_BASIS, name, values)
        return {}

    basis = materialize_arrays(home, Provenance(kind=Kind.FEATURE_BASIS, partition="clip"), write_basis).version
    per_scene = _FRAMES * _CAMERAS * _REGIONS_PER_IMAGE
    place = np.stack(np.unravel_index(np.arange(per_scene), (_FRAMES, _CAMERAS, _REGIONS_PER_IMAGE)), axis=1)

    def write_index(group: zarr.Group) -> dict[str, float]:
        features = GrowingArray(group, "features", rows_per_chunk=ROWS_PER_CHUNK)
        places = GrowingArray(group, "place", rows_per_chunk=ROWS_PER_CHUNK)
        known = []
        for scene in range(scenes):
            features.append(rng.integers(0, 256, (per_scene, _CHANNELS), dtype=np.uint8))
            places.append(place.astype(np.int32))
            known.append(
                IndexedScene(
                    key=f"random.{scene:04d}",
                    features="",
                    scene="",
                    camera_names=tuple(f"CAM_{camera}" for camera in range(_CAMERAS)),
                    num_frames=_FRAMES,
                    first_row=scene * per_scene,
                    num_rows=per_scene,
                )
            )
        features.close()
        places.close()
        group.attrs.update(
            {
                "scenes": [config_json(scene) for scene in known],
                "left_out": [],
                "feature_basis_digest": basis.digest,
            }
        )
        return {}

    config = RegionIndexConfig()
    provenance = Provenance(
        kind=Kind.REGION_INDEX,
        partition="clip",
        inputs=(basis.as_input,),
        config_digest=config_digest(config),
        config=config_json(config),
    )
    return RegionIndex(home, materialize_arrays(home, provenance, write_index).version)
