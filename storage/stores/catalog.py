"""The Parquet index of versions and of their inputs.

It lists versions, their inputs and their dependents without opening a store. It is only an index:
``storage.stores.versioned.rebuild_catalog`` makes it again from the stores. Each version is recorded as a part of its
own, which keeps writers out of each other's way, and small parts are merged into larger ones. A part goes only after
its rows stand in another, so a reader, or a merge that was killed, sees rows twice at worst; rows count once.
"""

import io
import logging
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.digests import bytes_digest, canonical_json
from storage.errors import ErrorKind, MissingTargetError, PipelineError
from storage.stores.durable import aside_name
from storage.stores.integrity import machine_fault, reading, writing
from storage.stores.lineage import EdgeGraph, LineageNode
from storage.stores.locks import held, lock_timeout_from_environment
from storage.stores.objects import LocalObjects, ObjectFolder
from storage.stores.provenance import InputVersion, Provenance

logger = logging.getLogger(__name__)

RAW_FILE = "raw_file"
WEIGHTS_FILE = "weights_file"
FILE_KINDS = (RAW_FILE, WEIGHTS_FILE)
"""Kinds of inputs that are files and no versions."""
FAULTS_OF_FITS = frozenset({ErrorKind.DIVERGED})
"""Faults for which a scene is quarantined after it was ingested; a successful fit mends them."""
FAULTS_OF_SOURCES = frozenset(ErrorKind) - FAULTS_OF_FITS
"""All others; a successful ingest mends them."""

_FOLDER = "catalog"
_MERGED = "merged"
_SMALL_PARTS = 64
"""Number of parts of one version each that are merged."""
_MERGED_PARTS = 16
"""Number of parts of one size that are merged into one of the next; 10^5 versions are at most 108 parts."""
_READ_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class _Index:
    """One table of the catalogue: the folder of its parts, and its columns."""

    name: str
    schema: pa.Schema

    @property
    def folder(self) -> str:
        return f"{_FOLDER}/{self.name}"

    def __hash__(self) -> int:
        return hash(self.name)


_VERSIONS = _Index(
    "versions",
    pa.schema(
        [
            ("kind", pa.string()),
            ("partition", pa.string()),
            ("digest", pa.string()),
            ("snapshot_id", pa.string()),
            ("form", pa.string()),
            ("created_at", pa.string()),
            ("wall_time_s", pa.float64()),
            ("device", pa.string()),
            ("licence", pa.string()),
            ("config_digest", pa.string()),
            ("code_digest", pa.string()),
            ("seed", pa.int64()),
            ("gate_passed", pa.bool_()),
            ("metrics", pa.string()),
        ]
    ),
)
_EDGES = _Index(
    "edges",
    pa.schema(
        [
            ("kind", pa.string()),
            ("partition", pa.string()),
            ("digest", pa.string()),
            ("input_kind", pa.string()),
            ("input_partition", pa.string()),
            ("input_digest", pa.string()),
        ]
    ),
)
_QUARANTINE = _Index(
    "quarantine",
    pa.schema(
        [
            ("partition", pa.string()),
            ("error_kind", pa.string()),
            ("key", pa.string()),
            ("message", pa.string()),
            ("at", pa.string()),
        ]
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The catalogue's record of one version.

    Attributes:
        provenance: Its identity and origin.
        snapshot_id: Icechunk snapshot, or the folder's digest for files.
        form: ``arrays`` or ``files``.
        metrics: JSON values stored with the version.
    """

    provenance: Provenance
    snapshot_id: str
    form: str
    metrics: Mapping[str, Any]


def record(objects: ObjectFolder, entry: Entry) -> None:
    """Add one version and its inputs; writing the same version twice changes nothing."""
    with _alone(objects):
        write_part(objects, entry)
        for index in (_EDGES, _VERSIONS):
            _merge(objects, index)


def write_part(objects: ObjectFolder, entry: Entry) -> None:
    """Add one version without merging what is there; ``record`` is for everybody else."""
    _write_part(objects, entry.provenance.digest, [_version_row(entry)], _edge_rows(entry.provenance))


def is_listed(objects: ObjectFolder, digest: str) -> bool:
    """Tell whether the version with this digest was recorded."""
    if f"{digest}.parquet" in _parts(objects, _VERSIONS):
        return True
    return digest in _read(objects, _VERSIONS, ["digest"])["digest"].to_pylist()


def versions(objects: ObjectFolder) -> pa.Table:
    """Return one row for each version."""
    return _once(_read(objects, _VERSIONS))


def edges(objects: ObjectFolder) -> pa.Table:
    """Return one row for each pair of version and input, raw and weights files included."""
    return _once(_read(objects, _EDGES))


def quarantined(objects: ObjectFolder) -> pa.Table:
    """Return one row for each time a partition was refused."""
    return _once(_read(objects, _QUARANTINE))


def quarantine(objects: ObjectFolder, partition: str, error: PipelineError) -> None:
    """Record that a partition was refused, with the error."""
    row = {
        "partition": partition,
        "error_kind": str(error.kind),
        "key": error.key,
        "message": error.message,
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    _write(objects, _QUARANTINE, uuid.uuid4().hex, pa.Table.from_pylist([row], _QUARANTINE.schema))


def release(objects: ObjectFolder, partition: str, kinds: Iterable[ErrorKind] | None = None) -> int:
    """Take a partition out of the quarantine, of refusals with some kinds of error or all; return their number."""
    wanted = None if kinds is None else {str(kind) for kind in kinds}
    released = 0
    for name, (_, part) in _read_parts(objects, _QUARANTINE).items():
        rows = [] if part is None else part.to_pylist()
        if rows and all(r["partition"] == partition and (wanted is None or r["error_kind"] in wanted) for r in rows):
            objects.delete(f"{_QUARANTINE.folder}/{name}")
            released += 1
    return released


def replace(objects: ObjectFolder, entries: Iterable[Entry]) -> int:
    """Replace the list of versions by these, and return their number; the quarantine stays as it is.

    Others may go on recording: what they add meanwhile stays. A part that cannot be read is set aside.
    """
    before = {index: _read_parts(objects, index) for index in (_VERSIONS, _EDGES)}
    rows, edge_rows = [], []
    for entry in entries:
        rows.append(_version_row(entry))
        edge_rows += _edge_rows(entry.provenance)
    with _alone(objects):
        name = _write_part(objects, _merged_name(_level_of(len(rows))), rows, edge_rows)
        for index, old in before.items():
            now = _read_parts(objects, index)
            now.pop(name)
            for part, (digest, table) in now.items():
                if part in old and old[part][0] == digest:
                    _retire(objects, index, part, is_readable=table is not None)
                elif table is not None and _level(part) > 0:  # others have merged old parts with new ones
                    _drop(objects, index, part, table, [of[1] for of in old.values() if of[1] is not None])
    return len(rows)


def lineage(objects: ObjectFolder, version: InputVersion) -> LineageNode:
    """Return all direct and indirect inputs of a version, down to the raw and weights files.

    Raises:
        MissingTargetError: If the catalogue does not list the version.
    """
    listed = _read(objects, _VERSIONS, ["kind", "partition", "digest"])  # before its edges, which are written first
    if (version.kind, version.partition, version.digest) not in set(_rows(listed)):
        raise MissingTargetError(
            ErrorKind.STORE_MISSING,
            f"{version.kind}/{version.partition}@{version.digest[:12]}",
            "the catalogue does not list it; 'distillnerf catalog rebuild' makes it again from the stores",
        )
    graph = _graph(objects, "", "input_")
    found = graph.find(version.kind, version.partition, version.digest)
    return graph.tree(int(found[0])) if len(found) else LineageNode(version, ())


def dependents(objects: ObjectFolder, *, kind: str, partition: str, digest: str | None = None) -> list[InputVersion]:
    """Return every version made, directly or indirectly, from a version or a file, nearest first.

    Args:
        objects: Objects of the home.
        kind: Kind of the input; ``raw_file`` or ``weights_file`` for files.
        partition: Its partition, or the file's path.
        digest: Its exact digest, or None for all versions of the partition.
    """
    graph = _graph(objects, "input_", "")
    steps = graph.walk(graph.find(kind, partition, digest))[1:]
    return [version for step in steps for version in graph.versions(step)]


def _graph(objects: ObjectFolder, of: str, to: str) -> EdgeGraph:
    """Return the graph of all edges; ``of`` and ``to`` are the column prefixes of start and end."""
    names, rows = ["kind", "partition", "digest"], _read(objects, _EDGES)
    return EdgeGraph(*(rows.select([f"{end}{name}" for name in names]).rename_columns(names) for end in (of, to)))


def _version_row(entry: Entry) -> dict[str, Any]:
    provenance = entry.provenance
    quality = entry.metrics.get("quality")
    return {
        "kind": provenance.kind,
        "partition": provenance.partition,
        "digest": provenance.digest,
        "snapshot_id": entry.snapshot_id,
        "form": str(entry.form),
        "created_at": provenance.created_at,
        "wall_time_s": provenance.wall_time_s,
        "device": provenance.device,
        "licence": provenance.licence,
        "config_digest": provenance.config_digest,
        "code_digest": provenance.code_digest,
        "seed": provenance.seed,
        "gate_passed": None if quality is None else isinstance(quality, Mapping) and quality.get("passed") is True,
        "metrics": canonical_json(entry.metrics),
    }


def _edge_rows(provenance: Provenance) -> list[dict[str, str]]:
    inputs = [*provenance.inputs]
    inputs += [InputVersion(RAW_FILE, path, digest) for path, digest in provenance.sources.items()]
    inputs += [InputVersion(WEIGHTS_FILE, name, digest) for name, digest in provenance.weights_digests.items()]
    digest = provenance.digest
    return [
        {
            "kind": provenance.kind,
            "partition": provenance.partition,
            "digest": digest,
            "input_kind": i.kind,
            "input_partition": i.partition,
            "input_digest": i.digest,
        }
        for i in inputs
    ]


def _write_part(objects: ObjectFolder, name: str, rows: list[dict[str, Any]], edge_rows: list[dict[str, str]]) -> str:
    _write(objects, _EDGES, name, pa.Table.from_pylist(edge_rows, _EDGES.schema))
    # Last: who finds it listed finds its edges too.
    return _write(objects, _VERSIONS, name, pa.Table.from_pylist(rows, _VERSIONS.schema))


def _write(objects: ObjectFolder, index: _Index, name: str, table: pa.Table) -> str:
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    objects.write(f"{index.folder}/{name}.parquet", content.getvalue())
    return f"{name}.parquet"


# --- parts and their merging ------------------------------------------------------------------------------------------


def _merge(objects: ObjectFolder, index: _Index) -> None:
    """Merge parts of one size into one of the next, where there are many."""
    of_level: dict[int, list[str]] = {}
    for name in _parts(objects, index):
        of_level.setdefault(_level(name), []).append(name)
    level = 0
    while len(of_level.get(level, ())) >= (_MERGED_PARTS if level else _SMALL_PARTS):
        tables = _read_parts(objects, index, of_level[level])
        whole = {name: table for name, (_, table) in tables.items() if table is not None}
        if len(whole) < 2:
            return
        merged = _write(objects, index, _merged_name(level + 1), _once(pa.concat_tables(whole.values())))
        for name in whole:
            objects.delete(f"{index.folder}/{name}")
        level += 1
        of_level.setdefault(level, []).append(merged)


def _merged_name(level: int) -> str:
    return f"{_MERGED}-{level}-{uuid.uuid4().hex}"


def _level(name: str) -> int:
    """Return 0 for a part of one version, and how often the rows of another were merged."""
    first, _, rest = name.partition("-")
    return int(rest.partition("-")[0]) if first == _MERGED else 0


def _level_of(num_versions: int) -> int:
    return 1 + max(0, math.ceil(math.log(max(1, num_versions) / _SMALL_PARTS, _MERGED_PARTS)))


def _retire(objects: ObjectFolder, index: _Index, part: str, *, is_readable: bool) -> None:
    name = f"{index.folder}/{part}"
    if is_readable:
        objects.delete(name)
    else:
        objects.move(name, aside_name(name))


def _drop(objects: ObjectFolder, index: _Index, part: str, table: pa.Table, old: list[pa.Table]) -> None:
    """Take rows of old tables out of a part."""
    gone = {row for of in old for row in _rows(of)}
    kept = np.array([row not in gone for row in _rows(table)], bool)
    if kept.all():
        return
    if kept.any():
        _write(objects, index, _merged_name(_level(part)), table.filter(pa.array(kept)))
    objects.delete(f"{index.folder}/{part}")


def _rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _read(objects: ObjectFolder, index: _Index, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of all parts, some perhaps twice."""
    tables = [table for _, table in _read_parts(objects, index, columns=columns).values() if table is not None]
    schema = index.schema if columns is None else pa.schema([index.schema.field(name) for name in columns])
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _once(table: pa.Table) -> pa.Table:
    return table.group_by(table.column_names).aggregate([]).select(table.column_names).cast(table.schema)


def _read_parts(
    objects: ObjectFolder, index: _Index, wanted: list[str] | None = None, *, columns: list[str] | None = None
) -> dict[str, tuple[str, pa.Table | None]]:
    """Return SHA-256 and rows of parts, by name; None in the place of rows that cannot be read.

    A part that goes while it is looked for was merged or replaced: its rows are found in another, so all are listed
    again until none is missing. Rows of a part that went after it was read are still good.
    """
    found: dict[str, tuple[str, pa.Table | None]] = {}
    with reading(f"{objects.url}/{index.folder}"):
        while True:
            names = [name for name in (wanted or _parts(objects, index)) if name not in found]
            with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
                read = list(pool.map(lambda name: _read_part(objects, index, name, columns), names))
            found |= {name: part for name, part in zip(names, read, strict=True) if part is not None}
            if wanted is not None or all(part is not None for part in read):
                return found


def _read_part(
    objects: ObjectFolder, index: _Index, name: str, columns: list[str] | None
) -> tuple[str, pa.Table | None] | None:
    """Return SHA-256 and rows of one part, or None if it has gone; what cannot be read has no rows, and is named."""
    path = f"{index.folder}/{name}"
    try:
        content = objects.read(path)
    except FileNotFoundError:
        return None
    try:
        names = columns or index.schema.names
        table = pq.ParquetFile(pa.BufferReader(content)).read(columns=names).select(names)
        table = table.cast(pa.schema([index.schema.field(name) for name in names]))
    except (pa.ArrowException, KeyError, OSError) as error:
        fault = machine_fault(path, error)
        if fault is not None:
            raise fault from error
        message = "%s/%s: cannot be read; 'distillnerf catalog rebuild' sets it aside and lists its versions"
        logger.warning(message, objects.url, path)
        table = None
    return bytes_digest(content), table


def _parts(objects: ObjectFolder, index: _Index) -> list[str]:
    return sorted(name for name in objects.sizes(index.folder) if name.endswith(".parquet"))


@contextmanager
def _alone(objects: ObjectFolder) -> Iterator[None]:
    """Keep other writers of a local index out, for the time of a few small files.

    Nobody is kept out of a bucket, and nothing is lost by that: merging twice leaves rows twice. What a rebuild takes
    out may come back if somebody merges in that moment; the next rebuild takes it out again.
    """
    if not isinstance(objects, LocalObjects):
        yield
        return
    path = objects.path / "locks" / "catalog.lock"
    with writing("catalog"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path, "catalog", lock_timeout_from_environment()):
            yield
