"""Fit the basis of a foundation model's features, and write a scene's features reduced by it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import zarr
from jaxtyping import Float, Float16

from storage.code import code_digest
from storage.errors import ErrorKind, IntegrityError, ProvenanceMismatchError
from storage.kinds import features_kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target
from storage.stores.versioned import Home, Materialized, materialize_arrays
from teachers.config import FeatureBasisConfig, PatchFeatureConfig
from teachers.image.extraction import Progress, mark_own_vehicle, provenance_of, version_of
from teachers.image.feature_basis import KIND as BASIS_KIND
from teachers.image.feature_basis import FeatureBasis, StreamingPca
from teachers.image.frame_writer import FrameWriter
from teachers.image.image_batches import ImageBatch, iterate_batches, resample, to_float16
from teachers.image.patch_features import PatchFeatureModel
from teachers.image.weights import resolve_weights
from teachers.image_evidence import AppearanceLimits, appearance_checks, appearance_of
from teachers.quality import at_least, at_most, gate


def fit(
    home: Home,
    model: type[PatchFeatureModel],
    readers: Sequence[SceneReader],
    config: FeatureBasisConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Find or build the basis of a feature source."""
    weights = resolve_weights(config.extractor.weights, *model.families)
    provenance = provenance_of(
        home,
        kind=BASIS_KIND,
        partition=model.feature_source,
        inputs=tuple(version_of(reader) for reader in readers),
        config=config,
        weights=weights,
        code=code_digest(__name__, model.__module__, kind=BASIS_KIND),
        seed=config.seed,
    )

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return _fit(group, readers, model(config.extractor, weights), config, on_progress)

    return materialize_arrays(home, provenance, write)


def extract(
    home: Home,
    reader: SceneReader,
    model: type[PatchFeatureModel],
    config: PatchFeatureConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Find or build the reduced features of a scene."""
    weights = resolve_weights(config.weights, *model.families)
    basis_version = home.require(BASIS_KIND, model.feature_source)
    fitted_to = dict(home.provenance(basis_version).weights_digests)
    if fitted_to != weights.digests:
        raise ProvenanceMismatchError(
            ErrorKind.DIGEST_MISMATCH,
            str(basis_version),
            f"was fitted to other weights than those of {config.weights.source!r}: fit the basis again",
        )
    scene, kind = version_of(reader), features_kind(model.feature_source)
    provenance = provenance_of(
        home,
        kind=kind,
        partition=scene.partition,
        inputs=(scene, basis_version),
        config=config,
        weights=weights,
        code=code_digest(__name__, model.__module__, kind=kind),
    )

    def write(group: zarr.Group) -> Mapping[str, Any]:
        basis = FeatureBasis.read(home.open_arrays(basis_version))
        group.attrs.update({"feature_basis_digest": basis_version.digest})
        return _extract(group, reader, model(config, weights), basis, on_progress)

    return materialize_arrays(home, provenance, write)


def at_rest(
    reduced: Float[np.ndarray, "*batch channels"], stored_bits: Literal[8, 16]
) -> Float16[np.ndarray, "*batch channels"]:
    """Return reduced features as they are stored: within [0, 1], and with 8 bits in steps of 1/256."""
    within = np.clip(reduced, 0.0, 1.0)
    return to_float16(np.round(within * 256.0) / 256.0 if stored_bits == 8 else within)


def _grid_features(model: PatchFeatureModel, batch: ImageBatch) -> Float[np.ndarray, "batch rows columns features"]:
    """Return a batch's features on the configured grid."""
    config = model.config
    maps = resample(model.dense_features(batch.images), height=config.grid_height, width=config.grid_width)
    return maps.permute(0, 2, 3, 1).numpy()


def sampled_frames(num_frames: int, wanted: int, random: np.random.Generator) -> list[int]:
    """Return all frame indices, or as many as wanted, drawn without repetition, in ascending order."""
    if num_frames <= wanted:
        return list(range(num_frames))
    return sorted(int(frame) for frame in random.choice(num_frames, wanted, replace=False))


def _fit(
    group: zarr.Group,
    readers: Sequence[SceneReader],
    model: PatchFeatureModel,
    config: FeatureBasisConfig,
    on_progress: ProgressCallback | None,
) -> Mapping[str, Any]:
    random = np.random.default_rng(config.seed)
    frames = [sampled_frames(reader.num_frames, config.frames_per_scene, random) for reader in readers]
    num_images = sum(len(chosen) * reader.num_cameras for chosen, reader in zip(frames, readers, strict=True))
    given = FeatureBasis.load(model.weights.path, model.num_features) if config.source == "weights" else None
    num_components = config.num_components if given is None else len(given.minimum)
    pca = StreamingPca(model.num_features, num_components, sample_size=config.range_sample_size, seed=config.seed)
    progress = Progress(f"{BASIS_KIND}/{model.feature_source}", num_images, on_progress)
    residual = 0.0
    size = (config.extractor.grid_height, config.extractor.grid_width)
    for reader, chosen in zip(readers, frames, strict=True):
        is_valid = [reader.is_valid(camera, size=size) for camera in range(reader.num_cameras)]
        for batch in _batches(reader, chosen, model):
            shown = np.stack([is_valid[camera] for _, camera in batch.indices])
            vectors = _grid_features(model, batch)[shown]
            if not np.isfinite(vectors).all():
                scene = version_of(reader).partition
                raise IntegrityError(
                    ErrorKind.WEIGHTS_INVALID, str(model.weights.path), f"gives features of {scene} that are not finite"
                )
            pca.add(vectors)
            if given is not None:
                residual += float(((vectors - given.restore(given.reduce(vectors))) ** 2).sum())
            progress.advance(len(batch.indices))
    basis = pca.finish(range_quantile=config.range_quantile) if given is None else given
    basis.write(group)
    group.attrs.update(
        {
            "feature_source": model.feature_source,
            "patch_size": model.multiple,
            "num_channels": num_components,
            "num_features": model.num_features,
            "weights_source": model.weights.source,
            "weights_folder": str(model.weights.path),
            "scenes": {version_of(r).partition: chosen for r, chosen in zip(readers, frames, strict=True)},
        }
    )
    explained = float(basis.explained_variance_ratio.sum())
    if given is not None:  # what it explained where it was fitted says nothing of these frames
        explained = 1.0 - residual / max(pca.total_variance, 1e-30)
    return {
        "num_scenes": len(readers),
        "num_images": num_images,
        "num_vectors": pca.count,
        "num_features": model.num_features,
        "num_components": num_components,
        "explained_variance": explained,
        "explained_variance_first": float(basis.explained_variance_ratio[0]),
        "images_per_s": progress.images_per_second,
        "quality": gate({"explained_variance": at_least(explained, 0.5)}),
    }


def _extract(
    group: zarr.Group,
    reader: SceneReader,
    model: PatchFeatureModel,
    basis: FeatureBasis,
    on_progress: ProgressCallback | None,
) -> Mapping[str, Any]:
    config, kind = model.config, features_kind(model.feature_source)
    writer = FrameWriter(group, kind, "features", num_frames=reader.num_frames, num_cameras=reader.num_cameras)
    num_channels = len(basis.minimum)
    group.attrs.update(
        {
            "feature_source": model.feature_source,
            "patch_size": model.multiple,
            "grid_height": config.grid_height,
            "grid_width": config.grid_width,
            "num_channels": num_channels,
            "weights_source": model.weights.source,
            "weights_folder": str(model.weights.path),
        }
    )
    group.attrs.update(dict(model.attributes))
    is_valid = mark_own_vehicle(group, kind, reader, (config.grid_height, config.grid_width))
    progress = Progress(kind, reader.num_frames * reader.num_cameras, on_progress)
    scene_statistics = StreamingPca(model.num_features, 1, sample_size=2, seed=0)
    non_finite = clipped = 0
    residual = 0.0
    for batch in _batches(reader, range(reader.num_frames), model):
        features = _grid_features(model, batch)
        reduced = basis.reduce(features)
        finite = np.isfinite(reduced)
        non_finite += int((~finite).sum())
        shown = np.stack([is_valid[camera] for _, camera in batch.indices])
        seen, restored = features[shown], basis.restore(reduced[shown])
        clipped += int(((reduced[shown] < 0) | (reduced[shown] > 1)).sum())
        residual += float(((seen - restored) ** 2).sum())
        scene_statistics.add(seen)
        for index, (frame, camera) in enumerate(batch.indices):
            writer.add(frame, camera, at_rest(reduced[index], config.stored_bits))
        progress.advance(len(batch.indices))
    num_images = reader.num_frames * reader.num_cameras
    num_values = num_images * config.grid_height * config.grid_width * num_channels
    num_judged = max(reader.num_frames * int(is_valid.sum()) * num_channels, 1)
    found = appearance_of(open_target(group, kind, "features"), reader)
    retained = 1.0 - residual / max(scene_statistics.total_variance, 1e-30)
    return {
        "num_images": num_images,
        "coverage": 1.0 - non_finite / num_values,
        "non_finite": non_finite,
        "clipped_fraction": clipped / num_judged,
        "retained_variance": retained,
        "num_channels": num_channels,
        "images_per_s": progress.images_per_second,
        "quality": gate(
            {
                "non_finite": at_most(non_finite, 0),
                "retained_variance": at_least(retained, config.min_retained_variance),
                "clipped_fraction": at_most(clipped / num_judged, config.max_clipped),
                **appearance_checks(found, AppearanceLimits()),
            }
        ),
    }


def _batches(reader: SceneReader, frames: Sequence[int], model: PatchFeatureModel) -> Iterator[ImageBatch]:
    config = model.config
    return iterate_batches(
        reader,
        frames,
        short_side=config.input_short_side,
        multiple=model.multiple,
        batch_size=config.inference.batch_size,
    )
