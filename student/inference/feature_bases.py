"""Bases of a student's foundation features, kept beside its weights: without them, what its heads say means nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from storage.errors import ErrorKind, IntegrityError
from storage.kinds import Kind
from storage.stores.integrity import reading_weights
from storage.stores.lineage import walk
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home
from student.data.training_set import TrainingSet
from student.inference.open_vocabulary import StoredFeatureBasis

FEATURE_BASES_FILE = "feature_bases.safetensors"
_ARRAYS = tuple(field.name for field in fields(StoredFeatureBasis))


def feature_bases_of(home: Home, frozen: TrainingSet, sources: Iterable[str]) -> dict[str, StoredFeatureBasis]:
    """Return the basis of each feature source that the stores of a training set descend from.

    Features that no pipeline reduced have none.

    Raises:
        MissingTargetError: If a basis was deleted.
    """
    wanted = set(sources)
    found: dict[str, StoredFeatureBasis] = {}
    # One scene is enough: a training set descends from one basis of each source.
    stores = [version.as_input for version in frozen.scenes[0].stores.values()] if wanted else []

    def inputs_of(item: InputVersion) -> tuple[InputVersion, ...]:
        version = home.find(item.kind, item.partition, item.digest)
        return () if version is None else home.provenance(version).inputs

    for _, item in walk(stores, inputs_of):
        if item.kind == Kind.FEATURE_BASIS and item.partition in wanted - set(found):
            version = home.require(item.kind, item.partition, item.digest)
            found[item.partition] = StoredFeatureBasis.read(home.open_arrays(version))
    return found


def save_feature_bases(folder: Path, bases: Mapping[str, StoredFeatureBasis]) -> None:
    """Write the bases of a student into its folder; nothing where it has none."""
    if bases:
        arrays = {
            f"{source}.{name}": np.ascontiguousarray(getattr(basis, name))
            for source, basis in bases.items()
            for name in _ARRAYS
        }
        save_file(arrays, folder / FEATURE_BASES_FILE)


def load_feature_bases(folder: Path) -> dict[str, StoredFeatureBasis]:
    """Read the bases from a student's folder; none where it has none.

    Raises:
        IntegrityError: If the file is damaged.
    """
    path = folder / FEATURE_BASES_FILE
    if not path.is_file():
        return {}
    try:
        with reading_weights(path):
            arrays = load_file(path)
        sources = sorted({name.partition(".")[0] for name in arrays})
        return {
            source: StoredFeatureBasis(**{name: arrays[f"{source}.{name}"] for name in _ARRAYS}) for source in sources
        }
    except (SafetensorError, OSError, KeyError) as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"cannot be read: {error}") from error


def same_basis(one: StoredFeatureBasis, other: StoredFeatureBasis) -> bool:
    """Return whether two bases give features the same meaning, to the bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _ARRAYS)
