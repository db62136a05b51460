"""Sources: the folder, format, version and licence of each raw data set.

A source is registered once per home, as ``<home>/sources/<dataset>.json``; every later stage names only the data set.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError, SourceDataError
from storage.ingest.source_config import SourceConfig, SourceFormat
from storage.keys import SceneKey
from storage.plain_json import parse_json
from storage.stores.versioned import Home

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
        SourceDataError: If a rig manifest is missing or not valid.
    """
    if source_format == "manifest":
        return manifest_source(root)
    dataset, version = _USUAL[source_format]
    return SourceConfig(dataset=dataset, format=source_format, root=root, version=version)


def register_source(home: Home, source: SourceConfig) -> Path:
    """Write a source under the home, replacing one of the same name, and return the file.

    Raises:
        SourceDataError: If the source's root is not a folder.
    """
    if not source.root.is_dir():
        raise SourceDataError(ErrorKind.FILE_MISSING, str(source.root), "is no folder; want the root of the data set")
    path = _source_path(home, source.dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    places = {"root": str(source.root), "link_roots": [str(folder) for folder in source.link_roots]}
    aside.write_text(json.dumps({**asdict(source), **places}, indent=2, sort_keys=True) + "\n")
    aside.replace(path)
    return path


def load_source(home: Home, dataset: str) -> SourceConfig:
    """Return the source registered under ``dataset``.

    Raises:
        SourceDataError: If there is no such source, or its file is invalid.
    """
    path = _source_path(home, dataset)
    if not path.is_file():
        registered = sorted(p.stem for p in path.parent.glob("*.json"))
        raise SourceDataError(
            ErrorKind.FILE_MISSING, str(path), f"no source {dataset!r} is registered; registered are {registered}"
        )
    try:
        source = config_from_json(SourceConfig, _with_link_roots(parse_json(path.read_text())), str(path))
    except IntegrityError as error:
        raise SourceDataError(ErrorKind.TABLE_INVALID, error.key, f"is not a valid source: {error.message}") from error
    except ValueError as error:  # no JSON
        raise SourceDataError(ErrorKind.TABLE_INVALID, str(path), f"is not a valid source: {error}") from error
    if source.dataset != dataset:
        raise SourceDataError(ErrorKind.TABLE_INVALID, str(path), f"describes {source.dataset!r}, want {dataset!r}")
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


def _with_link_roots(document: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a source's document; one that was registered before there were ``link_roots`` has none."""
    return {"link_roots": [], **document} if isinstance(document, dict) else document


def _source_path(home: Home, dataset: str) -> Path:
    return home.root / "sources" / f"{SceneKey(dataset, 'any').dataset}.json"
