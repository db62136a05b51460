"""Benchmark of the catalogue: thousands of versions as one part each, and merged."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from storage.digests import bytes_digest
from storage.stores import catalog
from storage.stores.objects import LocalObjects
from storage.stores.provenance import InputVersion, Provenance

_OF_A_SCENE = ("input_images", "sky_mask", "features", "nerf_teacher", "teacher_depth", "virtual_views", "weak_labels")
_RUNS = 3


def bench_catalog(num_scenes: int = 1250, num_raw_files: int = 174, *, quick: bool = False) -> dict[str, Any]:
    """List a catalogue and follow lineage both ways through it, unmerged and merged, in turns.

    Args:
        num_scenes: Scenes, each with eight versions; a training set of all of them and a checkpoint come on top.
        num_raw_files: Raw files of each scene.
        quick: Take 20 scenes.

    Returns:
        Seconds of listing a merged catalogue (ours, a median) and an unmerged one (reference, once); details have the
        rest.
    """
    entries = list(catalogue_entries(20 if quick else num_scenes, num_raw_files))
    with tempfile.TemporaryDirectory() as folder:
        unmerged, merged = _Unsynced(Path(folder) / "unmerged"), LocalObjects(Path(folder) / "merged")
        for entry in entries:
            catalog.write_part(unmerged, entry)
        begin = time.perf_counter()
        catalog.replace(merged, entries)
        replaced_s = time.perf_counter() - begin
        begin = time.perf_counter()
        for entry in entries[:100]:
            catalog.record(merged, entry)
        recorded_s = (time.perf_counter() - begin) / min(100, len(entries))
        checkpoint = entries[-1].provenance
        of = InputVersion(checkpoint.kind, checkpoint.partition, checkpoint.digest)
        asked: dict[str, Callable[[LocalObjects], object]] = {
            "list": catalog.versions,
            "is_listed": lambda objects: catalog.is_listed(objects, checkpoint.digest),
            "lineage of the checkpoint": lambda objects: catalog.lineage(objects, of),
            "dependents of a raw file": lambda objects: catalog.dependents(
                objects, kind=catalog.RAW_FILE, partition="scene-0000/0.jpg"
            ),
        }
        seconds = {
            question: {"unmerged": _seconds(ask, unmerged, runs=1), "merged": _seconds(ask, merged, runs=_RUNS)}
            for question, ask in asked.items()
        }
        edges = catalog.edges(merged).num_rows
    return {
        "name": "catalog",
        "ratio": seconds["list"]["unmerged"] / seconds["list"]["merged"],
        "ours": seconds["list"]["merged"],
        "reference": seconds["list"]["unmerged"],
        "unit": "s",
        "runs": _RUNS,
        "details": {
            "versions": len(entries),
            "edges": edges,
            "seconds": seconds,
            "seconds_to_rebuild": replaced_s,
            "seconds_to_record_one": recorded_s,
        },
    }


class _Unsynced(LocalObjects):
    """A folder whose files are not synced, which takes minutes for thousands."""

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def catalogue_entries(num_scenes: int, num_raw_files: int) -> Iterator[catalog.Entry]:
    """Yield the versions of a home with many scenes, the training set and the checkpoint last."""
    targets = []
    for index in range(num_scenes):
        name = f"scene-{index:04d}"
        sources = {f"{name}/{i}.jpg": bytes_digest(f"{name}/{i}".encode()) for i in range(num_raw_files)}
        scene = Provenance(kind="scene", partition=name, sources=sources)
        yield _entry(scene)
        made = [InputVersion(scene.kind, name, scene.digest)]
        for kind in _OF_A_SCENE:
            version = Provenance(
                kind=kind, partition=name, inputs=tuple(made[:2]), weights_digests={kind: bytes_digest(kind.encode())}
            )
            yield _entry(version)
            made.append(InputVersion(kind, name, version.digest))
        targets += made
    training_set = Provenance(kind="training_set", partition="clip", inputs=tuple(targets))
    yield _entry(training_set)
    of = InputVersion("training_set", "clip", training_set.digest)
    yield _entry(Provenance(kind="student_checkpoint", partition="clip", inputs=(of,), seed=1))


def _entry(provenance: Provenance) -> catalog.Entry:
    metrics = {"quality": {"passed": True, "checks": {}}, "figures": {str(i): i / 7 for i in range(8)}}
    return catalog.Entry(provenance=provenance.finished(1.0), snapshot_id="x" * 20, form="arrays", metrics=metrics)


def _seconds(ask: Callable[[LocalObjects], object], objects: LocalObjects, *, runs: int) -> float:
    taken = []
    for _ in range(runs):
        begin = time.perf_counter()
        ask(objects)
        taken.append(time.perf_counter() - begin)
    return median(taken)
