"""What a stored feature costs in bytes, and how far it is from what the model said.

``python -m teachers.image.trade_off HOME SOURCE`` fits a basis to every second sampled frame of a home's scenes. It
reduces the frames between by that basis, stores and restores them, and prints a Markdown table (or JSON): by channels,
bits and grid, the cosine error against the features of the model's own patches, and bytes at rest. Nothing is written
to the home.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
import zarr
from jaxtyping import Float
from zarr.storage import MemoryStore

from storage.kinds import FEATURE_SOURCES, Kind, features_kind
from storage.scenes.store import SceneReader
from storage.stores.arrays import write_target
from storage.stores.versioned import Home
from teachers.config import PatchFeatureConfig, WeightsConfig
from teachers.image.clip import ClipFeatures
from teachers.image.dinov2 import Dinov2Features
from teachers.image.extract_patches import at_rest
from teachers.image.feature_basis import FeatureBasis, StreamingPca
from teachers.image.image_batches import iterate_batches, resample
from teachers.image.patch_features import PatchFeatureModel

MODELS: dict[str, type[PatchFeatureModel]] = {"clip": ClipFeatures, "dinov2": Dinov2Features}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One way of storing features.

    Attributes:
        channels: Channels kept.
        bits: Bits of a value that carry meaning.
        grid: Rows and columns of the map.
        cosine_error: Mean of 1 - cosine between features and what is restored, over all patches.
        cosine_error_95: The error that 95 % of the patches stay below.
        bytes_per_image: Bytes of an image's map at rest, compressed.
    """

    channels: int
    bits: int
    grid: tuple[int, int]
    cosine_error: float
    cosine_error_95: float
    bytes_per_image: float


def costs(
    fitted: Sequence[Float[np.ndarray, "rows columns features"]],
    judged: Sequence[Float[np.ndarray, "rows columns features"]],
    *,
    source: str,
    channels: Sequence[int] = (8, 16, 32, 64),
    shares: Sequence[float] = (1.0, 0.5),
) -> Iterator[Cost]:
    """Yield the cost of every choice of channels, bits and grid.

    Args:
        fitted: Maps that the basis is fitted to.
        judged: Other maps, of one size, which are stored and restored.
        source: Feature source, for the layout at rest.
        channels: Numbers of channels.
        shares: Rows and columns of the stored grids, as shares of the model's own.
    """
    num_features = judged[0].shape[-1]
    pca = StreamingPca(num_features, min(max(channels), num_features), sample_size=65536, seed=0)
    for maps in fitted:
        pca.add(maps.reshape(-1, num_features))
    whole = pca.finish(range_quantile=0.001)
    wanted = np.stack(judged)
    rows, columns = wanted.shape[1:3]
    for kept in sorted({min(k, num_features) for k in channels}):
        basis = first_channels(whole, kept)
        for share in shares:
            grid = max(1, round(rows * share)), max(1, round(columns * share))
            reduced = basis.reduce(_resized(wanted, grid))
            for bits in _BITS:
                stored = at_rest(reduced, bits)
                restored = _resized(basis.restore(stored.astype(np.float32)), (rows, columns))
                error = 1.0 - _cosine(restored, wanted)
                yield Cost(
                    channels=kept,
                    bits=bits,
                    grid=grid,
                    cosine_error=float(error.mean()),
                    cosine_error_95=float(np.quantile(error, 0.95)),
                    bytes_per_image=_bytes_at_rest(stored, source) / len(stored),
                )


_BITS: tuple[Literal[8, 16], ...] = (16, 8)


def first_channels(basis: FeatureBasis, count: int) -> FeatureBasis:
    """Return the basis with its first channels alone, which is the one that a fit of so many gives."""
    return FeatureBasis(
        mean=basis.mean,
        components=basis.components[:, :count],
        minimum=basis.minimum[:count],
        maximum=basis.maximum[:count],
        explained_variance_ratio=basis.explained_variance_ratio[:count],
    )


def _resized(
    maps: Float[np.ndarray, "images rows columns channels"], grid: tuple[int, int]
) -> Float[np.ndarray, "images _ _ channels"]:
    moved = torch.from_numpy(maps).permute(0, 3, 1, 2)
    return resample(moved, height=grid[0], width=grid[1]).permute(0, 2, 3, 1).numpy()


def _cosine(
    a: Float[np.ndarray, "*batch features"], b: Float[np.ndarray, "*batch features"]
) -> Float[np.ndarray, "*batch"]:
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(axis=-1) / np.maximum(lengths, 1e-12)


def _bytes_at_rest(stored: np.ndarray, source: str) -> int:
    group = zarr.open_group(MemoryStore(), mode="w")
    kind = features_kind(source)
    write_target(group, kind, "features", stored[:, None])
    array = group["features"]
    assert isinstance(array, zarr.Array)
    return array.nbytes_stored()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arguments:
    """Bytes and cosine errors of stored features.

    Attributes:
        home: Home whose scenes are looked at.
        source: Feature source.
        weights: Weights of the model: "demo", a folder or a model on the hub.
        frames: Frames of each scene, evenly spread; half of them fit the basis.
        scenes: Most scenes that are looked at.
        short_side: Shorter side that images are resized to.
        json: Print JSON in place of a table.
    """

    home: Annotated[Path, tyro.conf.Positional]
    source: Annotated[Literal[FEATURE_SOURCES], tyro.conf.Positional]  # pyright: ignore[reportInvalidTypeForm]
    weights: str = "demo"
    frames: int = 4
    scenes: int = 4
    short_side: int = 224
    json: bool = False


def main() -> None:
    """Measure and print."""
    given = tyro.cli(_Arguments, description=_Arguments.__doc__)
    home = Home(given.home)
    config = PatchFeatureConfig(weights=WeightsConfig(source=given.weights), input_short_side=given.short_side)
    model = MODELS[given.source].from_config(config)
    fitted, judged = [], []
    keys = sorted({version.partition for version in home.versions(Kind.SCENE)})
    for key in keys[: given.scenes]:
        reader = SceneReader.open(home, key)
        frames = np.unique(np.linspace(0, reader.num_frames - 1, given.frames).round().astype(int)).tolist()
        for batch in iterate_batches(
            reader, frames, short_side=given.short_side, multiple=model.multiple, batch_size=8
        ):
            maps = model.dense_features(batch.images).permute(0, 2, 3, 1).numpy()
            for (frame, _), of_image in zip(batch.indices, maps, strict=True):
                (judged if frames.index(frame) % 2 else fitted).append(of_image)
    same = [maps for maps in judged if maps.shape == judged[0].shape]
    found = list(costs(fitted, same, source=given.source))
    if given.json:
        sys.stdout.write(json.dumps([asdict(cost) for cost in found], indent=1) + "\n")
        return
    lines = ["| channels | bits | grid | cosine error, mean | 95 % below | kB an image |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {c.channels} | {c.bits} | {c.grid[0]}x{c.grid[1]} | {c.cosine_error:.4f} | {c.cosine_error_95:.4f} | "
        f"{c.bytes_per_image / 1000:.1f} |"
        for c in found
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
