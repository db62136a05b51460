"""Ingest: from raw files to a published scene store, or to a typed error and a record of it.

Nothing is guessed or repaired. A scene that breaks a rule is quarantined with the reason; the others go on.
"""

from collections.abc import Callable
from typing import NamedTuple

from storage.errors import ErrorKind, SourceDataError, SourceMovedError
from storage.ingest.known_digests import KnownDigests, known_digests
from storage.ingest.manifest.recording import RigManifestRecording
from storage.ingest.nuscenes.recording import NuScenesRecording
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.recording import Recording
from storage.ingest.scene_writer import materialize_scene
from storage.ingest.source import load_source
from storage.ingest.source_config import SourceConfig
from storage.ingest.waymo.v1 import open_waymo_v1
from storage.ingest.waymo.v2 import open_waymo_v2
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.stores import catalog
from storage.stores.versioned import Home, Materialized


class _Reader(NamedTuple):
    """The function that opens one scene of a source, and the distributions that it reads with."""

    open: Callable[[SourceConfig, str, IngestConfig, KnownDigests], Recording]
    packages: tuple[str, ...]


_READERS = {
    "nuscenes": _Reader(NuScenesRecording, ("nuscenes-devkit",)),
    "waymo_v1": _Reader(open_waymo_v1, ("protobuf", "waymo-open-dataset-tf-2-12-0")),
    "waymo_v2": _Reader(open_waymo_v2, ("pyarrow",)),
    "manifest": _Reader(RigManifestRecording, ("pyarrow", "scipy")),
}


def ingest_scene(
    home: Home, scene_key: SceneKey, config: IngestConfig | None = None, *, on_progress: ProgressCallback | None = None
) -> Materialized:
    """Return the scene store of one scene, building it from its registered source if it does not exist.

    Raw files that nothing has touched since they were hashed are not hashed again, unless the environment says so
    (``storage.ingest.known_digests``).

    Args:
        home: Home with the registered sources and the stores.
        scene_key: Scene to ingest.
        config: Parts to ingest and limits.
        on_progress: Called with a stage, the fraction done and numbers worth showing.

    Raises:
        SourceDataError: If the source or anything in the scene is missing, broken or inconsistent. Nothing is
            published, and the catalogue's quarantine records the reason until the scene is ingested.
        SourceMovedError: If the source's folder, or a raw file of a scene that is stored already, is not there. The
            scene is not at fault: it is not quarantined, and what is stored stays in use.
    """
    config = config or IngestConfig()
    try:
        made = _ingest(home, scene_key, config, on_progress or (lambda *_: None))
    except SourceDataError as error:
        stored = home.latest(Kind.SCENE, str(scene_key)) if error.kind is ErrorKind.FILE_MISSING else None
        if stored is not None:
            message = f"{error.message}; {stored} stays in use, 'distillnerf home reroot OLD NEW' names a new place"
            raise SourceMovedError(ErrorKind.SOURCE_MOVED, error.key, message) from error
        if home.builds:
            catalog.quarantine(home.objects, str(scene_key), error)
        raise
    catalog.release(home.objects, str(scene_key), catalog.FAULTS_OF_SOURCES)
    return made


def open_recording(source: SourceConfig, scene_name: str, config: IngestConfig) -> Recording:
    """Open one scene of a registered source with the reader of its format.

    Raises:
        SourceDataError: If the scene is unknown, or anything but its images and points is broken.
    """
    return _READERS[source.format].open(source, scene_name, config, KnownDigests())


def _ingest(home: Home, scene_key: SceneKey, config: IngestConfig, on_progress: ProgressCallback) -> Materialized:
    source = load_source(home, scene_key.dataset)
    reader = _READERS[source.format]
    with known_digests(home.root, Kind.SCENE, str(scene_key)) as known:
        return materialize_scene(
            home,
            scene_key,
            source,
            reader.open(source, scene_key.scene_name, config, known),
            config,
            reader_module=reader.open.__module__,
            reader_packages=reader.packages,
            on_progress=on_progress,
        )
