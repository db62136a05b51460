"""The index by which things are found over all scenes of a home: each image as a few regions of like features.

A scene of 240 images has millions of features; its regions are some thousands of short vectors of bytes, so that all
regions of a thousand scenes are compared with a question one by one, without an approximate index. Only features that
one basis reduced are comparable: scenes that were reduced by another one are left out and named.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Float32, Int, UInt8
from skimage.segmentation import felzenszwalb

from storage.code import code_digest
from storage.config_json import config_from_json
from storage.digests import config_digest, config_json
from storage.errors import ErrorKind, MissingTargetError
from storage.kinds import FeatureSource, Kind, features_kind
from storage.progress import ProgressCallback
from storage.scenes.growing_array import GrowingArray
from storage.scenes.store import SceneReader
from storage.stores.arrays import open_target, read_features
from storage.stores.integrity import reading
from storage.stores.provenance import InputVersion, Provenance, package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_arrays
from student.inference.open_vocabulary import StoredFeatureBasis

KIND = Kind.REGION_INDEX

ROWS_PER_CHUNK = 1 << 17
_NO_REGION = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionIndexConfig:
    """How an image is divided into regions.

    Attributes:
        coarseness: How unlike two neighbouring regions have to be; more gives fewer and larger regions.
        min_cells: Cells of the smallest region.
        max_rows: Finer feature maps are averaged down to this many rows,
        max_columns: and this many columns.
    """

    coarseness: float = 300.0
    min_cells: int = 2
    max_rows: int = 32
    max_columns: int = 57

    def __post_init__(self) -> None:
        if not (self.coarseness > 0 and min(self.min_cells, self.max_rows, self.max_columns) >= 1):
            raise ValueError(f"{self}: want a coarseness above 0, and cells, rows and columns of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedScene:
    """One scene of an index.

    Attributes:
        key: Its key.
        features: Digest of the features that were indexed.
        scene: Digest of the scene that they were extracted from.
        camera_names: Cameras, in the order of their indices.
        num_frames: Number of its frames.
        first_row: First of its rows in the arrays.
        num_rows: Number of them.
    """

    key: str
    features: str
    scene: str
    camera_names: tuple[str, ...]
    num_frames: int
    first_row: int
    num_rows: int


def build_region_index(
    home: Home,
    source: FeatureSource,
    config: RegionIndexConfig = RegionIndexConfig(),
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Return the index of all scenes of a home that have features of a source, making it first if it does not exist.

    What the previous index holds of a scene is taken from there if nothing changed that decides it.

    Args:
        home: The home.
        source: The foundation model whose features are indexed.
        config: How images are divided into regions.
        on_progress: Told after every scene.

    Raises:
        MissingTargetError: If there is no basis, or no scene has features that it reduced.
        IntegrityError: If stored features are damaged.
    """
    basis = home.require(Kind.FEATURE_BASIS, source)
    found = _features_of(home, source)
    chosen = {key: version for key, version in found.items() if _basis_of(home, version) == basis.digest}
    left_out = sorted(set(found) - set(chosen))
    if not chosen:
        reason = f"no scene has features reduced by {basis}"
        raise MissingTargetError(ErrorKind.TARGET_MISSING, features_kind(source), reason)
    inputs = (basis.as_input, *(version.as_input for version in chosen.values()))
    provenance = Provenance(
        kind=KIND,
        partition=source,
        inputs=inputs,
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=KIND),
        licence=home.licence_of(inputs),
        config=config_json(config),
        packages=package_versions("numpy", "scikit-image"),
    )
    previous = _usable(home, source, provenance)

    def write(group: zarr.Group) -> Mapping[str, Any]:
        writer = _IndexWriter(group, StoredFeatureBasis.read(home.open_arrays(basis)), config)
        reused = 0
        for number, (key, version) in enumerate(chosen.items(), start=1):
            known = None if previous is None else previous.scene_of(key)
            if previous is not None and known is not None and known.features == version.digest:
                writer.copy(previous, known)
                reused += 1
            else:
                writer.add(home, version)
            if on_progress is not None:
                on_progress("index", number / len(chosen), {"scene": number, "of": len(chosen)})
        group.attrs.update({"feature_basis_digest": basis.digest, "left_out": left_out})
        num_regions, num_images = writer.close()
        return {
            "num_scenes": len(chosen),
            "reused_scenes": reused,
            "left_out_scenes": len(left_out),
            "num_images": num_images,
            "num_regions": num_regions,
            "regions_per_image": num_regions / max(1, num_images),
            "undefined_cells": writer.undefined_cells,
        }

    return materialize_arrays(home, provenance, write)


def is_current(home: Home, index: "RegionIndex", config: RegionIndexConfig = RegionIndexConfig()) -> bool:
    """Return whether an index holds just what would be indexed now, without reading any features."""
    made, basis = home.provenance(index.version), home.latest(Kind.FEATURE_BASIS, index.source)
    if (
        basis is None
        or basis.digest != index.basis_version.digest
        or made.code_digest != code_digest(__name__, kind=KIND)
        or made.config_digest != config_digest(config)
    ):
        return False
    found = _features_of(home, index.source)
    known = {scene.key: scene.features for scene in index.scenes}
    return set(found) == {*known, *index.left_out} and all(
        known.get(key) == version.digest or (key in index.left_out and _basis_of(home, version) != basis.digest)
        for key, version in found.items()
    )


class RegionIndex:
    """An index, opened for reading.

    Args:
        home: Its home.
        version: Its version.

    Attributes:
        version: Its version.
        source: Foundation model of the features.
        scenes: The scenes, in the order of their rows.
        left_out: Keys of the scenes that another basis reduced.
        basis_version: Basis of all features.
        basis: Its content.
        config: How images were divided into regions.
    """

    def __init__(self, home: Home, version: StoreVersion) -> None:
        self.version, self.source = version, version.partition
        self._group = home.open_arrays(version)
        attributes: dict[str, Any] = self._group.attrs.asdict()
        self.scenes = tuple(config_from_json(IndexedScene, raw, f"{version}/scenes") for raw in attributes["scenes"])
        self.left_out: tuple[str, ...] = tuple(attributes["left_out"])
        self.basis_version = home.require(Kind.FEATURE_BASIS, self.source, str(attributes["feature_basis_digest"]))
        self.basis = StoredFeatureBasis.read(home.open_arrays(self.basis_version))
        self.config = config_from_json(RegionIndexConfig, dict(home.provenance(version).config), f"{version}/config")
        self._by_key = {scene.key: scene for scene in self.scenes}
        self._features = open_target(self._group, KIND, "features")
        self._places = open_target(self._group, KIND, "place")

    @classmethod
    def latest(cls, home: Home, source: FeatureSource) -> "RegionIndex | None":
        """Return the current index of a source, or None."""
        version = home.latest(KIND, source)
        return None if version is None else cls(home, version)

    @property
    def num_rows(self) -> int:
        """Return the number of regions."""
        return self._features.shape[0]

    def scene_of(self, key: str) -> IndexedScene | None:
        """Return what the index knows of a scene, or None."""
        return self._by_key.get(key)

    def features(self, start: int, stop: int) -> UInt8[np.ndarray, "regions channels"]:
        """Return the features of some regions, as bytes."""
        with reading(f"{self.version}/features"):
            return np.asarray(self._features[start:stop])

    def places(self, start: int, stop: int) -> Int[np.ndarray, "regions 3"]:
        """Return frame, camera and number within the image of some regions."""
        with reading(f"{self.version}/place"):
            return np.asarray(self._places[start:stop])

    def places_of(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n 3"]:
        """Return the places of regions that need not follow each other."""
        with reading(f"{self.version}/place"):
            return np.asarray(self._places.oindex[rows, :]) if len(rows) else np.zeros((0, 3), np.int32)

    def chunks(self) -> Iterator[tuple[int, UInt8[np.ndarray, "regions channels"]]]:
        """Yield all features in order, by parts, each with its first row."""
        for start in range(0, self.num_rows, ROWS_PER_CHUNK):
            yield start, self.features(start, min(start + ROWS_PER_CHUNK, self.num_rows))

    def scene_at(self, rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the index of the scene that each row belongs to."""
        return np.searchsorted([scene.first_row for scene in self.scenes], rows, side="right") - 1


def divide(
    features: Float[np.ndarray, "height width channels"], basis: StoredFeatureBasis, config: RegionIndexConfig
) -> tuple[Int[np.ndarray, "rows columns"], Float32[np.ndarray, "rows columns channels"]]:
    """Divide an image into connected regions of like features (Felzenszwalb and Huttenlocher 2004).

    Args:
        features: Reduced features of the image.
        basis: Basis that reduced them: a channel counts as much as it spans of the model's own space.
        config: How fine.

    Returns:
        The region of each cell, counted from 0, and -1 where features are undefined; and the cells' features.
    """
    cells = _shrunk(features.astype(np.float32), config.max_rows, config.max_columns)
    is_defined = np.isfinite(cells).all(axis=-1)
    span = basis.maximum - basis.minimum
    # In units of what one component spans on average, so that a coarseness suits every model.
    scaled = np.where(is_defined[..., None], cells, 0.0) * (span / np.sqrt(np.mean(span**2)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)  # it means channels
        labels = felzenszwalb(
            scaled.astype(np.float64), scale=config.coarseness, sigma=0, min_size=config.min_cells, channel_axis=-1
        )
    _, numbered = np.unique(np.where(is_defined, labels, _NO_REGION), return_inverse=True)
    return numbered.reshape(labels.shape) - (0 if is_defined.all() else 1), cells


def region_means(
    labels: Int[np.ndarray, "rows columns"], cells: Float32[np.ndarray, "rows columns channels"]
) -> UInt8[np.ndarray, "regions channels"]:
    """Return the mean feature of each region, as bytes: 255 for what the basis calls 1."""
    is_region = labels.reshape(-1) >= 0
    owner, values = labels.reshape(-1)[is_region], cells.reshape(-1, cells.shape[-1])[is_region]
    sums = np.zeros((int(labels.max(initial=-1)) + 1, cells.shape[-1]))
    np.add.at(sums, owner, values)
    means = sums / np.bincount(owner, minlength=len(sums))[:, None]
    return np.round(255 * np.clip(means, 0.0, 1.0)).astype(np.uint8)


class _IndexWriter:
    """Writes the arrays of an index, scene by scene."""

    def __init__(self, group: zarr.Group, basis: StoredFeatureBasis, config: RegionIndexConfig) -> None:
        self._group, self._basis, self._config = group, basis, config
        self._features = GrowingArray(group, "features", rows_per_chunk=ROWS_PER_CHUNK)
        self._places = GrowingArray(group, "place", rows_per_chunk=ROWS_PER_CHUNK)
        self._scenes: list[IndexedScene] = []
        self._num_images = 0
        self.undefined_cells = 0

    def add(self, home: Home, version: StoreVersion) -> None:
        """Divide all images of a scene."""
        group = home.open_arrays(version)
        num_frames = open_target(group, version.kind, "features").shape[0]
        scene = next(item for item in home.provenance(version).inputs if item.kind == Kind.SCENE)
        first = self._features.num_rows
        for frame in range(num_frames):
            with reading(f"{version}/{frame:06d}"):
                maps = read_features(group, version.kind, (frame,))
            for camera, features in enumerate(maps):
                labels, cells = divide(features, self._basis, self._config)
                means = region_means(labels, cells)
                self.undefined_cells += int((labels < 0).sum())
                self._features.append(means)
                place = np.empty((len(means), 3), np.int32)
                place[:, 0], place[:, 1], place[:, 2] = frame, camera, np.arange(len(means))
                self._places.append(place)
        self._note(home, version, scene, num_frames, first)

    def copy(self, other: RegionIndex, known: IndexedScene) -> None:
        """Take a scene from another index."""
        first, rows = self._features.num_rows, slice(known.first_row, known.first_row + known.num_rows)
        self._features.append(other.features(rows.start, rows.stop))
        self._places.append(other.places(rows.start, rows.stop))
        self._append(
            IndexedScene(
                key=known.key,
                features=known.features,
                scene=known.scene,
                camera_names=known.camera_names,
                num_frames=known.num_frames,
                first_row=first,
                num_rows=known.num_rows,
            )
        )

    def _note(self, home: Home, version: StoreVersion, scene: InputVersion, num_frames: int, first: int) -> None:
        self._append(
            IndexedScene(
                key=version.partition,
                features=version.digest,
                scene=scene.digest,
                camera_names=SceneReader.open(home, scene.partition, scene.digest).camera_names,
                num_frames=num_frames,
                first_row=first,
                num_rows=self._features.num_rows - first,
            )
        )

    def _append(self, scene: IndexedScene) -> None:
        self._scenes.append(scene)
        self._num_images += scene.num_frames * len(scene.camera_names)

    def close(self) -> tuple[int, int]:
        """Write what is left, and return the numbers of regions and of images."""
        self._features.close()
        self._places.close()
        self._group.attrs.update({"scenes": [config_json(scene) for scene in self._scenes]})
        return self._features.num_rows, self._num_images


def _features_of(home: Home, source: str) -> dict[str, StoreVersion]:
    """Return the current features of every scene of a home that has some, by scene."""
    kind = features_kind(source)
    found = {key: home.latest(kind, key) for _, key in home.array_partitions(kind)}
    return {key: version for key, version in found.items() if version is not None}


def _basis_of(home: Home, features: StoreVersion) -> str:
    return str(home.open_arrays(features).attrs["feature_basis_digest"])


def _usable(home: Home, source: FeatureSource, wanted: Provenance) -> RegionIndex | None:
    """Return the current index if its rows are what would be made now of the same features."""
    version = home.latest(KIND, source)
    if version is None:
        return None
    made = home.provenance(version)
    same = made.code_digest == wanted.code_digest and made.config_digest == wanted.config_digest
    basis = {item for item in wanted.inputs if item.kind == Kind.FEATURE_BASIS}
    return RegionIndex(home, version) if same and basis <= set(made.inputs) else None


def _shrunk(
    features: Float32[np.ndarray, "height width channels"], max_rows: int, max_columns: int
) -> Float32[np.ndarray, "rows columns channels"]:
    """Average a map down to at most so many rows and columns; a smaller one stays as it is."""
    for axis, most in enumerate((max_rows, max_columns)):
        size = features.shape[axis]
        if size > most:
            starts = np.arange(most) * size // most
            counts = np.diff([*starts, size]).reshape([-1 if a == axis else 1 for a in range(3)])
            features = np.add.reduceat(features, starts, axis=axis) / counts.astype(np.float32)
    return features
