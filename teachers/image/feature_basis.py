"""PCA of foundation features, fitted as a stream: memory does not grow with the number of frames.

Mean and covariance are merged exactly (float64), so the result is that of one fit on all vectors, whatever the batches.
The range of each channel comes from a bounded random sample.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import zarr
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.kinds import Kind
from storage.stores.arrays import read_target, write_target
from storage.stores.integrity import reading_weights

KIND = Kind.FEATURE_BASIS
BASIS_FILE = "feature_basis.safetensors"
"""Name of a basis in the folder of a model's weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureBasis:
    """Affine map from features to K channels in [0, 1].

    Attributes:
        mean: Mean of the features.
        components: Orthonormal columns, in order of falling variance.
        minimum: Lower end of each projected channel's range, which becomes 0.
        maximum: Upper end of each projected channel's range, which becomes 1.
        explained_variance_ratio: Share of the features' variance along each column.
    """

    mean: Float[np.ndarray, " features"]
    components: Float[np.ndarray, "features channels"]
    minimum: Float[np.ndarray, " channels"]
    maximum: Float[np.ndarray, " channels"]
    explained_variance_ratio: Float[np.ndarray, " channels"]

    def project(self, features: Float[np.ndarray, "*batch features"]) -> Float[np.ndarray, "*batch channels"]:
        """Return the coordinates along the components, before scaling."""
        return (features - self.mean) @ self.components

    def reduce(self, features: Float[np.ndarray, "*batch features"]) -> Float[np.ndarray, "*batch channels"]:
        """Return the scaled coordinates, unclipped: values outside the range leave [0, 1]."""
        return (self.project(features) - self.minimum) / (self.maximum - self.minimum)

    def restore(self, reduced: Float[np.ndarray, "*batch channels"]) -> Float[np.ndarray, "*batch features"]:
        """Return the features nearest to scaled coordinates, in the teacher's own space."""
        return (reduced * (self.maximum - self.minimum) + self.minimum) @ self.components.T + self.mean

    def write(self, group: zarr.Group) -> None:
        """Write the basis as a ``feature_basis``."""
        for name in _names():
            write_target(group, KIND, name, np.asarray(getattr(self, name), np.float32))

    @classmethod
    def read(cls, group: zarr.Group) -> "FeatureBasis":
        """Return the basis that ``write`` stored."""
        return cls(**{name: read_target(group, KIND, name) for name in _names()})

    def save(self, folder: Path) -> None:
        """Write the basis beside a model's weights."""
        save_file(
            {name: np.ascontiguousarray(getattr(self, name), np.float32) for name in _names()}, folder / BASIS_FILE
        )

    @classmethod
    def load(cls, folder: Path, num_features: int) -> "FeatureBasis":
        """Return the basis beside a model's weights, for features of that length.

        Raises:
            MissingTargetError: If there is none.
            IntegrityError: If the file is damaged, or holds something else or a basis of longer or shorter features.
        """
        path = folder / BASIS_FILE
        if not path.is_file():
            raise MissingTargetError(
                ErrorKind.WEIGHTS_MISSING, str(path), "these weights come without a basis: want it fitted (source fit)"
            )
        try:
            with reading_weights(path):
                arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"cannot be read: {error}") from error
        if set(arrays) != set(_names()):
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"holds {sorted(arrays)}, want {_names()}")
        if len(arrays["mean"]) != num_features:
            found = len(arrays["mean"])
            raise IntegrityError(
                ErrorKind.WEIGHTS_INVALID, str(path), f"reduces {found} features, the model has {num_features}"
            )
        return cls(**arrays)


def _names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(FeatureBasis))


class StreamingPca:
    """Fit of a feature basis to vectors that come in batches.

    Args:
        num_features: Length of a vector.
        num_components: Channels to keep, at most ``num_features``.
        sample_size: Number of vectors, drawn uniformly from the whole stream, that set the range.
        seed: Seed of that draw.
    """

    def __init__(self, num_features: int, num_components: int, *, sample_size: int, seed: int) -> None:
        if not 1 <= num_components <= num_features:
            raise ValueError(f"num_components {num_components}: want within [1, {num_features}], the features' length")
        self._num_components = num_components
        self._count = 0
        self._mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))
        self._sample = np.zeros((sample_size, num_features), np.float32)
        self._random = np.random.default_rng(seed)

    @property
    def count(self) -> int:
        """Return the number of vectors seen."""
        return self._count

    @property
    def total_variance(self) -> float:
        """Return the squared distance of all vectors from their mean, summed over the stream."""
        return float(np.trace(self._scatter))

    def add(self, features: Float[np.ndarray, "batch features"]) -> None:
        """Add a batch of finite vectors."""
        if not len(features):
            return
        batch = features.astype(np.float64)
        batch_mean = batch.mean(axis=0)
        centred = batch - batch_mean
        shift = batch_mean - self._mean
        total = self._count + len(batch)
        self._scatter += centred.T @ centred + np.outer(shift, shift) * (self._count * len(batch) / total)
        self._mean += shift * (len(batch) / total)
        self._keep_sample(features)
        self._count = total

    def _keep_sample(self, features: Float[np.ndarray, "batch features"]) -> None:
        # Reservoir sampling, one draw per vector: the sample does not depend on how the stream is cut into batches.
        size = len(self._sample)
        first = max(0, min(len(features), size - self._count))
        self._sample[self._count : self._count + first] = features[:first]
        seen = np.arange(self._count + first + 1, self._count + len(features) + 1)
        slots = (self._random.random(len(seen)) * seen).astype(np.int64)
        kept = np.flatnonzero(slots < size)
        self._sample[slots[kept]] = features[first + kept]  # of two that hit one slot the later stays, as one by one

    def finish(self, *, range_quantile: float) -> FeatureBasis:
        """Return the basis of all vectors seen.

        Args:
            range_quantile: Share of the sample left outside the range at each end.

        Raises:
            ValueError: If fewer vectors than components were seen, or they vary in fewer directions.
        """
        if self._count <= self._num_components:
            raise ValueError(f"{self._count} feature vectors: want more than {self._num_components}, the components")
        values, vectors = np.linalg.eigh(self._scatter / self._count)
        order = np.argsort(values)[::-1][: self._num_components]
        variance, components = np.maximum(values[order], 0.0), vectors[:, order]
        # The eigenvectors' signs are arbitrary: making the largest entry positive gives equal data equal bases.
        largest = components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])]
        components = components * np.where(largest < 0, -1.0, 1.0)
        projected = (self._sample[: self._count] - self._mean) @ components
        minimum, maximum = np.quantile(projected, [range_quantile, 1 - range_quantile], axis=0)
        flat = maximum - minimum <= 1e-6 * max(float(np.sqrt(variance[0])), 1e-30)
        if flat.any():
            raise ValueError(
                f"channel {int(flat.argmax())} does not vary: want at most {int((~flat).sum())} components"
            )
        return FeatureBasis(
            mean=self._mean.astype(np.float32),
            components=components.astype(np.float32),
            minimum=minimum.astype(np.float32),
            maximum=maximum.astype(np.float32),
            explained_variance_ratio=(variance / max(float(np.trace(self._scatter)) / self._count, 1e-30)).astype(
                np.float32
            ),
        )
