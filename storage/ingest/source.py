"""Sources: the folder, format, version and licence of each raw data set.

A source is registered once per home, as ``<home>/sources/<dataset>.json``; every later stage names only the data set.
Folders inside the home are kept relative to it, so that a home may be moved or copied whole.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError, SourceDataError, SourceMovedError
from storage.ingest.recognise import check_format
from storage.ingest.source_config import SourceConfig, SourceFormat
from storage.keys import SceneKey
from storage.plain_json import parse_json
from storage.stores.versioned import Home

_FOLDER = "sources"
_USUAL = {
    "nuscenes": ("nuscenes", "v1.0-mini"),
    "waymo_v1": ("waymo", "v1"),
    "waymo_v2": ("waymo", "v2"),
}
"""Data set and version of each format that does not state its own."""


def manifest_source(root: Path, *, dataset: str | None = None) -> SourceConfig:
    """Return the source that a rig manifest describes; its licence, version and name come from the manifest itself.

    Args:
        root: Folder of ``rig_manifest.json``.
        dataset: Name of the data set here; by default the manifest's own.

    Raises:
        SourceDataError: If there is no valid manifest.
    """
    from storage.ingest.manifest.manifest import load_manifest

    manifest = load_manifest(root)
    return SourceConfig(
        dataset=dataset or manifest.name,
        format="manifest",
        root=root,
        version=manifest.version,
        licence=manifest.licence,
    )


def usual_source(source_format: SourceFormat, root: Path) -> SourceConfig:
    """Return the source that a folder is taken for: as its manifest says, or under the usual name of its format.

    Raises:
        SourceDataError: If the folder is of another format, or a rig manifest is missing or not valid.
    """
    check_format(source_format, root)
    if source_format == "manifest":
        return manifest_source(root)
    dataset, version = _USUAL[source_format]
    return SourceConfig(dataset=dataset, format=source_format, root=root, version=version)


def register_source(home: Home, source: SourceConfig) -> None:
    """Write a source under the home, replacing one of the same name.

    Raises:
        SourceDataError: If the source's root is not a folder.
    """
    if not source.root.is_dir():
        raise SourceDataError(ErrorKind.FILE_MISSING, str(source.root), "is no folder; want the root of the data set")
    _write_source(home, source)


def load_source(home: Home, dataset: str) -> SourceConfig:
    """Return the source registered under ``dataset``.

    Raises:
        SourceDataError: If there is no such source, or its file is invalid.
        SourceMovedError: If its folder is not there, or is that of the home that this one was copied from.
    """
    source = _read_source(home, dataset)
    own = _own_recordings(home, source.root)
    if own is not None:  # registered before roots inside a home were kept relative to it
        other = source.root.parent.parent
        message = f"lies in another home, as {own} does in this one; 'distillnerf home reroot {other} {home.root}'"
        raise SourceMovedError(ErrorKind.SOURCE_MOVED, str(source.root), message)
    if not source.root.is_dir():
        message = (
            f"the folder of source {dataset!r} is not there; 'distillnerf home reroot OLD NEW' names its new place"
        )
        raise SourceMovedError(ErrorKind.SOURCE_MOVED, str(source.root), message)
    return source


def registered_datasets(home: Home) -> list[str]:
    """Return the names of all registered sources, sorted."""
    names = home.objects.sizes(_FOLDER)
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def reroot_sources(home: Home, old: Path, new: Path) -> dict[str, SourceConfig]:
    """Let all sources whose folders lie in one place look for them in another, and return those by data set.

    Args:
        home: Home of the sources.
        old: Folder that was moved, or a folder above it; it need not be there.
        new: Its new place.

    Raises:
        SourceDataError: If a folder of a source is not below ``new``, or a source's file is invalid; nothing is
            changed then.
    """
    old, new = old.expanduser().absolute(), new.expanduser().absolute()
    changed = {}
    for dataset in registered_datasets(home):
        source = _read_source(home, dataset)
        folders = {folder: _moved(folder, old, new) for folder in (source.root, *source.link_roots)}
        if all(folder == moved for folder, moved in folders.items()):
            continue
        missing = next((moved for folder, moved in folders.items() if moved != folder and not moved.is_dir()), None)
        if missing is not None:
            raise SourceDataError(ErrorKind.FILE_MISSING, str(missing), f"is no folder; want one of source {dataset!r}")
        links = tuple(folders[folder] for folder in source.link_roots)
        changed[dataset] = replace(source, root=folders[source.root], link_roots=links)
    for source in changed.values():
        _write_source(home, source)
    return changed


def _moved(folder: Path, old: Path, new: Path) -> Path:
    return new / folder.relative_to(old) if folder.is_relative_to(old) else folder


def _own_recordings(home: Home, root: Path) -> Path | None:
    """Return the folder of this home that stands where ``root`` stands in another home, if there is one."""
    if root.is_relative_to(home.root) or root.parent.name != "recordings":
        return None
    own = home.root / "recordings" / root.name
    return own if own.is_dir() and not (root.exists() and own.samefile(root)) else None


def _write_source(home: Home, source: SourceConfig) -> None:
    def place(folder: Path) -> str:  # inside the home it is kept relative, so that the home may be moved
        return str(folder.relative_to(home.root) if folder.is_relative_to(home.root) else folder)

    places = {"root": place(source.root), "link_roots": [place(folder) for folder in source.link_roots]}
    document = json.dumps({**asdict(source), **places}, indent=2, sort_keys=True) + "\n"
    home.objects.write(_source_name(source.dataset), document.encode())


def _read_source(home: Home, dataset: str) -> SourceConfig:
    name = _source_name(dataset)
    key = f"{home.objects.url}/{name}"
    try:
        stored = home.objects.read(name)
    except FileNotFoundError:
        message = f"no source {dataset!r} is registered; registered are {registered_datasets(home)}"
        raise SourceDataError(ErrorKind.FILE_MISSING, key, message) from None
    try:
        source = config_from_json(SourceConfig, _with_places(home, parse_json(stored.decode())), key)
    except IntegrityError as error:
        raise SourceDataError(ErrorKind.TABLE_INVALID, error.key, f"is not a valid source: {error.message}") from error
    except ValueError as error:  # no JSON
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"is not a valid source: {error}") from error
    if source.dataset != dataset:
        raise SourceDataError(ErrorKind.TABLE_INVALID, key, f"describes {source.dataset!r}, want {dataset!r}")
    return source


def list_scenes(
    source: SourceConfig, *, on_rejected: Callable[[SourceDataError], None] | None = None
) -> list[SceneKey]:
    """Return the keys of all scenes of a source, in the source's own order.

    Args:
        source: The source.
        on_rejected: Called with the error of each scene that cannot be named (reserved characters, duplicates), which
            is then left out. Without it the first such error is raised.

    Raises:
        SourceDataError: If the source cannot be read, or a scene was rejected and ``on_rejected`` is None.
    """
    return [SceneKey(source.dataset, name) for name in _scene_names(source, on_rejected)]


def expand_splits(source: SourceConfig, names: Sequence[str]) -> list[str]:
    """Return scene names, with each official nuScenes split replaced by its scenes that the source holds.

    Raises:
        SourceDataError: If the release lacks such a split, or all of its scenes.
    """
    from storage.ingest.nuscenes.splits import SPLIT_NAMES, split_scenes

    expanded: list[str] = []
    for name in names:
        if source.format != "nuscenes" or name not in SPLIT_NAMES:
            expanded.append(name)
            continue
        there = {key.scene_name for key in list_scenes(source, on_rejected=lambda _: None)}
        found = [scene for scene in split_scenes(name, source.version) if scene in there]
        if not found:
            message = f"none of the scenes of split {name!r} is there"
            raise SourceDataError(ErrorKind.SCENE_UNKNOWN, str(source.root), message)
        expanded += found
    return list(dict.fromkeys(expanded))


def _scene_names(source: SourceConfig, on_rejected: Callable[[SourceDataError], None] | None) -> list[str]:
    if source.format == "nuscenes":
        from storage.ingest.nuscenes.tables import load_tables, scene_names

        return list(scene_names(load_tables(source.root, source.version), on_rejected=on_rejected))
    if source.format == "manifest":
        from storage.ingest.manifest.manifest import load_manifest
        from storage.ingest.manifest.manifest import scene_names as manifest_scene_names

        return manifest_scene_names(load_manifest(source.root), on_rejected=on_rejected)
    if source.format == "waymo_v2":
        from storage.ingest.waymo.v2 import list_segments_v2

        return list_segments_v2(source.root, on_rejected=on_rejected)
    from storage.ingest.waymo.v1 import list_segments

    return [name for name, _ in list_segments(source.root, on_rejected=on_rejected)]


def _with_places(home: Home, document: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a source's document with absolute folders; one of before there were ``link_roots`` has none."""
    if not isinstance(document, dict):
        return document
    document = {"link_roots": [], **document}
    if isinstance(document.get("root"), str):
        document["root"] = str(home.root / document["root"])
    if isinstance(document["link_roots"], list):
        document["link_roots"] = [str(home.root / f) if isinstance(f, str) else f for f in document["link_roots"]]
    return document


def _source_name(dataset: str) -> str:
    return f"{_FOLDER}/{SceneKey(dataset, 'any').dataset}.json"
