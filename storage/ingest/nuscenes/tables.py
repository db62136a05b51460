"""The nuScenes tables, loaded once per process by the official devkit, with typed errors for its failures.

The devkit trusts its input: it raises a bare ``KeyError`` for a dangling token. The tables are searched for the reason
only when it fails. Maps are not loaded, because nothing here reads them.
"""

import difflib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from storage.errors import ErrorKind, PipelineError, SourceDataError
from storage.keys import check_name
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)
OPTIONAL_TABLES = ("attribute", "category", "instance", "sample_annotation", "visibility")
"""Tables of annotations. A release without them can be read; its scenes list the missing ones."""
_LABELS = "lidarseg"
"""Table of point labels, which only some releases have."""

# What the devkit adds to the rows in memory, and what therefore is no part of the files' content.
_ADDED_BY_DEVKIT = {
    "sample": {"data", "anns"},
    "sample_data": {"sensor_modality", "channel"},
    "sample_annotation": {"category_name"},
}
# (table, field): every other field that the devkit reads while it loads.
_READ_BY_DEVKIT = (
    ("category", "name"),
    ("sample", "timestamp"),
    ("sample_data", "is_key_frame"),
    ("sensor", "channel"),
    ("sensor", "modality"),
)
# (table, field, table that the field points into): every reference that the devkit follows while it loads.
_REFERENCES = (
    ("sample_annotation", "instance_token", "instance"),
    ("sample_annotation", "sample_token", "sample"),
    ("instance", "category_token", "category"),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
    ("sample_data", "sample_token", "sample"),
    ("calibrated_sensor", "sensor_token", "sensor"),
)
_MAX_CACHED = 2  # the tables of v1.0-trainval take gigabytes

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NuScenesTables:
    """Tables of one nuScenes release.

    Attributes:
        root: Folder to which file names in the tables are relative.
        version: Release name, which is the folder of the tables inside the root.
        devkit: The devkit's ``NuScenes`` object.
        missing: Optional tables that the release lacks; they count as empty.
        repeated: Tokens that several rows of a table have, by table; the devkit takes the last row.
        second_keyframes: Samples and channels that have several keyframes; likewise.
    """

    root: Path
    version: str
    devkit: Any
    missing: tuple[str, ...] = ()
    repeated: Mapping[str, frozenset[str]] = field(default_factory=dict)
    second_keyframes: frozenset[tuple[str, str]] = frozenset()

    def name(self, table: str) -> str:
        """Return a table's file name relative to the root."""
        return f"{self.version}/{table}.json"

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table."""
        return getattr(self.devkit, table)

    def optional_rows(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table that only some releases have: ``lidarseg``."""
        return getattr(self.devkit, table, [])

    def row(self, table: str, token: object, *, named_by: str) -> Row:
        """Return the row with this token.

        Raises:
            SourceDataError: If the table has no such row, or several; the message names ``named_by``, the referring
                row.
        """
        if token in self.repeated.get(table, ()):
            message = f"has several rows with token {token!r}, which {named_by} names, want one"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.name(table), message)
        try:
            return self.devkit.get(table, token)
        except (KeyError, TypeError) as error:
            message = f"has no row with token {token!r}, which {named_by} names"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.name(table), message) from error

    def value(self, table: str, row: Row, column: str) -> Any:  # noqa: ANN401 - JSON
        """Return one field of a row.

        Raises:
            SourceDataError: If the row has no such field.
        """
        if column not in row:
            message = f"row {row.get('token')!r} has no field {column!r}, only {sorted(row)}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, self.name(table), message)
        return row[column]


def as_in_file(table: str, row: Row) -> dict[str, Any]:
    """Return a row without the fields that the devkit added in memory."""
    added = _ADDED_BY_DEVKIT.get(table, set())
    return {k: v for k, v in row.items() if k not in added}


_cache: dict[tuple[Path, str], tuple[tuple[tuple[int, int], ...], NuScenesTables]] = {}
_cache_lock = threading.Lock()


def load_tables(root: Path, version: str) -> NuScenesTables:
    """Return the tables of a release; a process loads them again only after one of their files changed.

    Raises:
        SourceDataError: If root, version or a table is missing, or the tables are not valid nuScenes tables.
    """
    root = root.absolute()
    paths = _table_paths(root, version)
    stamp = tuple((s.st_mtime_ns, s.st_size) for s in (p.stat() for p in paths))
    missing = tuple(table for table in OPTIONAL_TABLES if table not in {p.stem for p in paths})
    with _cache_lock:
        cached = _cache.get((root, version))
        if cached is not None and cached[0] == stamp:
            return cached[1]
        devkit = _load_devkit(root, version, missing)
        tables = NuScenesTables(
            root=root,
            version=version,
            devkit=devkit,
            missing=missing,
            repeated=_repeated_tokens(devkit),
            second_keyframes=_second_keyframes(devkit),
        )
        _cache.pop((root, version), None)
        while len(_cache) >= _MAX_CACHED:
            _cache.pop(next(iter(_cache)))
        _cache[root, version] = (stamp, tables)
        return tables


def scene_names(
    tables: NuScenesTables, *, on_rejected: Callable[[SourceDataError], None] | None = None
) -> Iterator[str]:
    """Yield the names of the scenes whose name is valid and unique, in the order of the table.

    Args:
        tables: Tables of the release.
        on_rejected: Called once with the error of each other name. Without it the first error is raised.

    Raises:
        SourceDataError: If a name is used twice or holds a reserved character, and ``on_rejected`` is None.
    """
    counts = Counter(repr(tables.value("scene", row, "name")) for row in tables.rows("scene"))
    for row in tables.rows("scene"):
        count = counts.pop(repr(row["name"]), 0)
        try:
            if count > 1:
                raise _duplicate(tables, row["name"], count)
            if count == 1:
                yield _checked_name(row["name"])
        except SourceDataError as error:
            if on_rejected is None:
                raise
            on_rejected(error)


def find_scene(tables: NuScenesTables, name: str) -> Row:
    """Return the row of the scene with this name.

    Raises:
        SourceDataError: If no scene or several have that name.
    """
    found = [row for row in tables.rows("scene") if tables.value("scene", row, "name") == name]
    if not found:
        known = [str(row["name"]) for row in tables.rows("scene")]
        near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
        message = f"has no scene {name!r} among its {len(known)}; near it are {near}"
        raise SourceDataError(ErrorKind.SCENE_UNKNOWN, tables.name("scene"), message)
    if len(found) > 1:
        raise _duplicate(tables, name, len(found))
    return found[0]


def _duplicate(tables: NuScenesTables, name: object, count: int) -> SourceDataError:
    return SourceDataError(
        ErrorKind.SCENE_DUPLICATE, tables.name("scene"), f"has {count} scenes named {name!r}, want one"
    )


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise SourceDataError(ErrorKind.NAME_INVALID, repr(name), "want a string as the name of a scene")
    return check_name(name)


def _table_paths(root: Path, version: str) -> list[Path]:
    if not root.is_dir():
        raise SourceDataError(ErrorKind.FILE_MISSING, str(root), "is no folder; want the root of a nuScenes data set")
    folder = root / version
    if not folder.is_dir():
        there = sorted(p.parent.name for p in root.glob("*/scene.json"))
        message = f"has no version {version!r}, only {there}; --version names one"
        raise SourceDataError(ErrorKind.VERSION_UNKNOWN, str(root), message)
    paths = [folder / f"{table}.json" for table in TABLES]
    for path in paths:
        if not path.is_file() and path.stem not in OPTIONAL_TABLES:
            message = f"is missing; the tables read are {', '.join(TABLES)}"
            raise SourceDataError(ErrorKind.TABLE_MISSING, f"{version}/{path.name}", message)
    return [path for path in (*paths, folder / f"{_LABELS}.json") if path.is_file()]


def _load_devkit(root: Path, version: str, missing: tuple[str, ...]) -> Any:  # noqa: ANN401 - the devkit is not typed
    pillow_limit = Image.MAX_IMAGE_PIXELS
    try:
        from nuscenes.nuscenes import NuScenes  # seconds: it imports matplotlib and scikit-learn
    finally:
        Image.MAX_IMAGE_PIXELS = pillow_limit  # the devkit lifts Pillow's guard for the whole process

    class Tables(NuScenes):
        """The devkit's object over the tables that there are.

        The devkit's own constructor also opens the maps, and counts the files of point labels: it takes no release of
        which only some blobs were unpacked.
        """

        def __init__(self) -> None:
            self.version, self.dataroot, self.verbose = version, str(root), False
            self.table_names = [*TABLES, *([_LABELS] if (root / version / f"{_LABELS}.json").is_file() else [])]
            for table in self.table_names:
                setattr(self, table, [] if table in missing else self.__load_table__(table))
            self.map = [{"token": "", "log_tokens": [row["token"] for row in self.log]}]  # asked for, not used
            self.__make_reverse_index__(verbose=False)

    try:
        with machine_faults(str(root)):
            return Tables()
    except PipelineError:
        raise
    except Exception as error:  # whatever broke inside: the tables are to blame, and are looked through for the reason
        _explain(root, version, missing)
        message = f"nuscenes-devkit cannot load the tables: {type(error).__name__}: {error}"
        raise SourceDataError(ErrorKind.TABLE_INVALID, version, message) from error


def _repeated_tokens(devkit: Any) -> dict[str, frozenset[str]]:  # noqa: ANN401 - the devkit is not typed
    repeated = {}
    for table in TABLES:
        rows = getattr(devkit, table)
        if len({row["token"] for row in rows}) < len(rows):
            counts = Counter(row["token"] for row in rows)
            repeated[table] = frozenset(token for token, count in counts.items() if count > 1)
    return repeated


def _second_keyframes(devkit: Any) -> frozenset[tuple[str, str]]:  # noqa: ANN401 - the devkit is not typed
    counts = Counter((row["sample_token"], row["channel"]) for row in devkit.sample_data if row["is_key_frame"])
    return frozenset(key for key, count in counts.items() if count > 1)


def _explain(root: Path, version: str, missing: tuple[str, ...]) -> None:
    """Raise the typed error that says why these tables do not load, if the reason is found."""
    rows = {table: [] if table in missing else _read_table(root, version, table) for table in TABLES}
    if (root / version / f"{_LABELS}.json").is_file():
        _read_table(root, version, _LABELS)
    for table, column in _READ_BY_DEVKIT:
        for row in rows[table]:
            if column not in row:
                message = f"row {row['token']!r} has no field {column!r}, only {sorted(row)}"
                raise SourceDataError(ErrorKind.TABLE_INVALID, f"{version}/{table}.json", message)
    tokens = {table: {row["token"] for row in rows[table]} for table in TABLES}
    for table, column, target in _REFERENCES:
        for row in rows[table]:
            if row.get(column) not in tokens[target]:
                message = f"row {row['token']!r} has {column} {row.get(column)!r}, which {target}.json does not hold"
                raise SourceDataError(ErrorKind.TABLE_INVALID, f"{version}/{table}.json", message)


def _read_table(root: Path, version: str, table: str) -> list[dict[str, Any]]:
    key = f"{version}/{table}.json"
    try:
        rows = parse_json((root / key).read_text())
    except ValueError as error:
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"holds a {type(rows).__name__}, want a list of rows")
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("token"), str):
            message = f"entry {index} is no row with a token: {str(row)[:80]}"
            raise SourceDataError(ErrorKind.TABLE_INVALID, key, message)
    return rows
