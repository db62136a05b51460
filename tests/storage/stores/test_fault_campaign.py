"""Any object of any store lost, cut, emptied, flipped or exchanged for another: nothing is read as what it is not."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from storage.errors import IntegrityError, MissingTargetError
from storage.stores.codecs import COMPRESSED, VERBATIM
from storage.stores.integrity import reading
from storage.stores.provenance import Provenance
from storage.stores.verification import verify_home
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_arrays

KIND = "example"
PARTITIONS = ("tiny.a", "tiny.b")
FAULTS = ("flip", "delete", "cut", "empty", "swap", "swap")
NAMES = ("bytes", "depth", "empty", "inner/mask")


def content(config: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(config)
    return {
        "bytes": random.integers(0, 255, (8, 700), np.uint8),
        "depth": random.normal(size=(6, 40, 10)).astype(np.float16),
        "empty": np.zeros((4, 300), np.uint8),
        "inner/mask": random.random((5, 30, 20)) < 0.5,
    }


def publish(home: Home, partition: str, config: int) -> Materialized:
    def write(group) -> dict:
        group.attrs["config"] = config
        for name, data in content(config).items():
            codec = VERBATIM if name == "bytes" else COMPRESSED
            group.create_array(name, data=data, chunks=(1, *data.shape[1:]), compressors=codec)
        return {"config": config}

    return materialize_arrays(home, Provenance(kind=KIND, partition=partition, config_digest=str(config)), write)


def is_right(home: Home, version: StoreVersion, config: int) -> bool:
    group = home.open_arrays(version)
    with reading(str(version)):
        arrays = {name: np.asarray(group[name][...]) for name in NAMES}
    wanted = content(config)
    return (
        all(np.array_equal(arrays[name], wanted[name]) for name in NAMES)
        and group.attrs["config"] == config
        and home.metrics(version) == {"config": config}
        and home.provenance(version).digest == version.digest
    )


def harm(store: Path, fault: str, random: np.random.Generator) -> None:
    objects = sorted(path for path in store.rglob("*") if path.is_file())
    folders = sorted({path.parent for path in objects})
    folder = folders[random.integers(len(folders))]
    path = [p for p in objects if p.parent == folder][random.integers(sum(p.parent == folder for p in objects))]
    data = bytearray(path.read_bytes())
    if fault == "delete":
        path.unlink()
    elif fault == "swap":
        others = [p for p in objects if p.parent == folder and p != path]
        others = [p for p in others if p.stat().st_size == len(data)] or others
        if others:
            other = others[random.integers(len(others))]
            path.write_bytes(other.read_bytes())
            other.write_bytes(data)
    elif fault == "flip":
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
    else:
        path.write_bytes(data[: random.integers(len(data)) if fault == "cut" else 0])


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_read_as_what_it_is_not(home: Home, seed: int) -> None:
    random = np.random.default_rng(seed)
    configs = (1, 2)
    versions = {(p, c): publish(home, p, c).version for p in PARTITIONS for c in configs}
    whole = home.root.with_name("whole")
    shutil.copytree(home.root, whole)
    seen: Counter[str] = Counter()
    for trial in range(12):
        partition = PARTITIONS[trial % 2]
        harm(home.root / "stores" / KIND / partition, FAULTS[trial % len(FAULTS)], random)
        findings = {found.finding for found in verify_home(home)}
        for (_, config), version in versions.items():
            try:
                assert is_right(home, version, config)
                seen["read"] += 1
            except (IntegrityError, MissingTargetError):
                assert findings - {"whole"}
                seen["refused"] += 1
        for owner in PARTITIONS:  # whatever happened, asking for a version gives it, and harms no other
            for config in (*configs, 3):
                asked = publish(home, owner, config)
                try:
                    assert is_right(home, asked.version, config)
                except IntegrityError:  # a flipped bit in a chunk: only who reads it, or verify, can know
                    assert asked.reused
                    assert "damaged" in findings
                    seen["to be set aside"] += 1
        shutil.rmtree(home.root)
        shutil.copytree(whole, home.root)
    assert seen["read"]
    assert seen["refused"]
