"""The Parquet index of versions and of their inputs.

It lists versions, their inputs and their dependents without opening a store. It is only an index:
``storage.stores.versioned.rebuild_catalog`` makes it again from the stores. One small file per version keeps writers
out of each other's way.
"""

import dataclasses
import io
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.digests import canonical_json
from storage.errors import ErrorKind, MissingTargetError, PipelineError
from storage.stores.durable import make_folder, set_aside, write_durably
from storage.stores.integrity import machine_fault, reading, writing
from storage.stores.lineage import LineageNode, tree, walk
from storage.stores.locks import held, lock_timeout_from_environment
from storage.stores.provenance import InputVersion, Provenance

logger = logging.getLogger(__name__)

RAW_FILE = "raw_file"
WEIGHTS_FILE = "weights_file"

_VERSIONS = pa.schema(
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
)
_EDGES = pa.schema(
    [
        ("kind", pa.string()),
        ("partition", pa.string()),
        ("digest", pa.string()),
        ("input_kind", pa.string()),
        ("input_partition", pa.string()),
        ("input_digest", pa.string()),
    ]
)
_QUARANTINE = pa.schema(
    [
        ("partition", pa.string()),
        ("error_kind", pa.string()),
        ("key", pa.string()),
        ("message", pa.string()),
        ("at", pa.string()),
    ]
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


def record(root: Path, entry: Entry) -> None:
    """Add one version and its inputs; writing the same version twice changes nothing."""
    with _alone(root):
        _write_part(root / "catalog", entry.provenance.digest, [_version_row(entry)], _edge_rows(entry.provenance))


def is_listed(root: Path, digest: str) -> bool:
    """Tell whether the version with this digest was recorded."""
    part = root / "catalog" / "versions" / f"{digest}.parquet"
    return part.is_file() or digest in versions(root)["digest"].to_pylist()


def versions(root: Path) -> pa.Table:
    """Return one row for each version."""
    return _read(root / "catalog" / "versions", _VERSIONS)


def edges(root: Path) -> pa.Table:
    """Return one row for each pair of version and input, raw and weights files included."""
    return _read(root / "catalog" / "edges", _EDGES)


def quarantined(root: Path) -> pa.Table:
    """Return one row for each time a partition was refused."""
    return _read(root / "catalog" / "quarantine", _QUARANTINE)


def quarantine(root: Path, partition: str, error: PipelineError) -> None:
    """Record that a partition was refused, with the error."""
    row = {
        "partition": partition,
        "error_kind": str(error.kind),
        "key": error.key,
        "message": error.message,
        "at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    _write(root / "catalog" / "quarantine" / f"{uuid.uuid4().hex}.parquet", [row], _QUARANTINE)


def replace(root: Path, entries: Iterable[Entry]) -> int:
    """Replace the list of versions by these, and return their number; the quarantine stays as it is.

    Others may go on recording: what they add meanwhile stays. A part that cannot be read is set aside.
    """
    base = root / "catalog"
    before = {path: path.stat().st_ino for name in ("versions", "edges") for path in _parts(base / name)}
    rows, edge_rows = [], []
    for entry in entries:
        rows.append(_version_row(entry))
        edge_rows += _edge_rows(entry.provenance)
    with _alone(root):
        _write_part(base, f"rebuilt-{uuid.uuid4().hex}", rows, edge_rows)
        for path, inode in before.items():
            if not path.is_file() or path.stat().st_ino != inode:
                continue
            if _read_part(path, _EDGES if path.parent.name == "edges" else _VERSIONS) is None:
                set_aside(root, path)
            else:
                path.unlink()
    return len(rows)


def lineage(root: Path, version: InputVersion) -> LineageNode:
    """Return all direct and indirect inputs of a version, down to the raw and weights files.

    Raises:
        MissingTargetError: If the catalogue does not list the version.
    """
    rows = versions(root).select(["kind", "partition", "digest"]).to_pylist()  # once: others write meanwhile
    if dataclasses.asdict(version) not in rows:
        raise MissingTargetError(
            ErrorKind.STORE_MISSING,
            f"{version.kind}/{version.partition}@{version.digest[:12]}",
            "the catalogue does not list it; 'distillnerf catalog rebuild' makes it again from the stores",
        )
    inputs_of = _neighbours(root, "", "input_")
    return tree(version, lambda item: inputs_of.get(item, []))


def dependents(root: Path, *, kind: str, partition: str, digest: str | None = None) -> list[InputVersion]:
    """Return every version made, directly or indirectly, from a version or a file, nearest first.

    Args:
        root: The home's root folder.
        kind: Kind of the input; ``raw_file`` or ``weights_file`` for files.
        partition: Its partition, or the file's path.
        digest: Its exact digest, or None for all versions of the partition.
    """
    users_of = _neighbours(root, "input_", "")
    starts = [
        used for used in users_of if used.kind == kind and used.partition == partition and digest in (None, used.digest)
    ]
    reached = sorted(walk(starts, lambda used: users_of.get(used, [])))
    return [version for distance, version in reached if distance > 0]


def _neighbours(root: Path, of: str, to: str) -> dict[InputVersion, list[InputVersion]]:
    """Return the ends of all edges by their starts; ``of`` and ``to`` are the column prefixes of start and end."""
    found: dict[InputVersion, list[InputVersion]] = {}
    for row in edges(root).to_pylist():
        begin, end = (
            InputVersion(row[f"{prefix}kind"], row[f"{prefix}partition"], row[f"{prefix}digest"]) for prefix in (of, to)
        )
        found.setdefault(begin, []).append(end)
    return found


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
        "gate_passed": None if quality is None else bool(quality["passed"]),
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


def _write_part(base: Path, name: str, rows: list[dict[str, Any]], edge_rows: list[dict[str, str]]) -> None:
    _write(base / "edges" / f"{name}.parquet", edge_rows, _EDGES)
    _write(base / "versions" / f"{name}.parquet", rows, _VERSIONS)  # last: who finds it listed finds its edges too


def _write(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(r) for r in rows], schema=schema), content)
    make_folder(path.parent)
    write_durably(path, content.getvalue())


def _read(folder: Path, schema: pa.Schema) -> pa.Table:
    """Return the rows of all parts, each once: a rebuild that was killed leaves some twice."""
    with reading(str(folder)):
        parts = [part for path in _parts(folder) if (part := _read_part(path, schema)) is not None]
    if not parts:
        return schema.empty_table()
    table = pa.concat_tables(parts)
    return table.group_by(schema.names).aggregate([]).select(schema.names).cast(schema)


def _read_part(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Return one part, or None, and say so, if it cannot be read."""
    try:
        return pq.read_table(path, schema=schema)
    except FileNotFoundError:  # a rebuild has just replaced it by another part
        return None
    except (pa.ArrowException, OSError) as error:
        fault = machine_fault(str(path), error)
        if fault is not None:
            raise fault from error
        logger.warning("%s: cannot be read; 'distillnerf catalog rebuild' sets it aside and lists its versions", path)
        return None


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.parquet"))


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other writers of the index out, for the time of one or two small files."""
    path = root / "locks" / "catalog.lock"
    with writing("catalog"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path, "catalog", lock_timeout_from_environment()):
            yield
