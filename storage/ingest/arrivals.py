"""Which scenes of the registered recordings are whole, and what the others wait for.

A recording may still be copied. A scene is whole if every file that its tables name is there and ends as its format
ends, and no sweep shows a much smaller part of the circle than the others of its scene. A file that grows looks whole
in between, so a caller that watches a folder also compares the sizes of two looks (``Arrival.sizes``).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.digests import digest_of
from storage.errors import ErrorKind, PipelineError, SourceDataError, SourceMovedError
from storage.ingest.raw_files import NUSCENES_POINT_FIELDS, parse_nuscenes_lidar, read_bytes, resolve_inside
from storage.ingest.raw_scene import IngestConfig
from storage.ingest.source import list_scenes, load_source, registered_datasets
from storage.ingest.source_config import SourceConfig
from storage.stores.integrity import machine_faults
from storage.stores.versioned import Home

_TAIL_BYTES = 1024  # cameras pad behind the end marker
_SECTORS = 72
_MIN_COVERED_SHARE = 0.75
_END_OF_JPEG = b"\xff\xd9"
_END_OF_PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One scene of a registered recording.

    Attributes:
        key: Scene key.
        waits_for: What is not there or not whole yet; empty for a whole scene.
        sizes: Digest of the names and sizes of its files; empty if a table or a file is missing.
    """

    key: str
    waits_for: str = ""
    sizes: str = ""


def arrivals(
    home: Home,
    *,
    passing_by: Collection[str] = (),
    on_rejected: Callable[[SourceDataError | SourceMovedError], None] = lambda _: None,
) -> Iterator[Arrival]:
    """Yield every scene of the registered recordings, and look at its files.

    Args:
        home: Home with the registered sources.
        passing_by: Keys of scenes whose files need no look; they are yielded as whole.
        on_rejected: Called with the error of each source that cannot be read, and of each scene that has no valid name.
    """
    for dataset in registered_datasets(home):
        try:
            source = load_source(home, dataset)
            keys = list_scenes(source, on_rejected=on_rejected)
        except (SourceDataError, SourceMovedError) as error:  # one broken source must not hide the scenes of the others
            on_rejected(error)
            continue
        for key in keys:
            if str(key) in passing_by:
                yield Arrival(key=str(key))
            else:
                yield look_at(source, str(key), key.scene_name)


def look_at(source: SourceConfig, key: str, scene_name: str) -> Arrival:
    """Return whether a scene of a source is whole."""
    try:
        files = {file: resolve_inside(source.root, file, source.link_roots) for file in scene_files(source, scene_name)}
        sizes = {file: path.stat().st_size for file, path in files.items()}
    except PipelineError as error:  # a file that the machine cannot read now hides no other scene
        return Arrival(key=key, waits_for=f"{error.key}: {error.message}")
    except OSError as error:  # removed or replaced this moment
        return Arrival(key=key, waits_for=f"{error.filename}: {error.strerror}")
    try:
        for file, path in files.items():
            _check_end(path, file, sizes[file])
        if source.format == "nuscenes":
            _check_sweeps((file, path) for file, path in files.items() if _is_sweep(file))
    except PipelineError as error:
        return Arrival(key=key, waits_for=f"{error.key}: {error.message}", sizes=digest_of(sizes))
    return Arrival(key=key, sizes=digest_of(sizes))


def scene_files(source: SourceConfig, scene_name: str) -> list[str]:
    """Return the files that one scene is made of, relative to the source's root, each once.

    Raises:
        SourceDataError: If a table is missing or broken, or names no file.
    """
    if source.format == "waymo_v1":
        from storage.ingest.waymo.v1 import find_segment

        return [find_segment(source.root, scene_name)]
    if source.format == "waymo_v2":
        from storage.ingest.waymo.v2 import files_of_segment

        return files_of_segment(source.root, scene_name)
    from storage.ingest.run import open_recording

    raw = open_recording(source, scene_name, IngestConfig()).raw
    images = [file for row in raw.image_files for file in row]
    others = [sweep.file for row in raw.other_sweeps for sweep in row]
    named = [*images, *raw.lidar_files, *others, *raw.lidar_label_files]
    return list(dict.fromkeys(name.partition("#")[0] for name in named if name))


def _check_end(path: Path, file: str, size: int) -> None:
    """Check that a file ends as its format does.

    Raises:
        SourceDataError: If it does not.
    """
    if size == 0:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, file, "is empty so far")
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg") and _END_OF_JPEG not in _tail(path, file):
        raise SourceDataError(ErrorKind.IMAGE_INVALID, file, "has no end-of-image marker so far")
    if suffix == ".parquet" and not _tail(path, file).endswith(_END_OF_PARQUET):
        raise SourceDataError(ErrorKind.FILE_CORRUPT, file, "has no Parquet footer so far")
    if _is_sweep(file) and size % (NUSCENES_POINT_FIELDS * 4):
        raise SourceDataError(ErrorKind.LIDAR_INVALID, file, f"ends within a point so far, at byte {size}")
    if suffix == ".tfrecord":
        from storage.ingest.waymo.tfrecord import check_framing

        check_framing(path, file)


def _check_sweeps(sweeps: Iterable[tuple[str, Path]]) -> None:
    """Check that every sweep sees as much of the circle as the sweeps of its scene usually do.

    A sweep is written in the order of its rotation, so that the first half of a file is half a circle.

    Raises:
        SourceDataError: If one sees less, or cannot be read.
    """
    covered = {file: _covered_share(parse_nuscenes_lidar(read_bytes(path, file), file)) for file, path in sweeps}
    usual = float(np.median(list(covered.values()))) if covered else 0.0
    for file, share in covered.items():
        if share < _MIN_COVERED_SHARE * usual:
            message = f"sees {share:.0%} of the circle so far, the sweeps of its scene usually {usual:.0%}"
            raise SourceDataError(ErrorKind.LIDAR_INVALID, file, message)


def _covered_share(points: np.ndarray) -> float:
    """Return the share of the circle around the sensor in which a sweep has points, in [0, 1]."""
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    sector = np.floor((azimuth + np.pi) / (2 * np.pi) * _SECTORS).astype(int) % _SECTORS
    return len(np.unique(sector)) / _SECTORS


def _is_sweep(file: str) -> bool:
    return file.endswith(".pcd.bin")


def _tail(path: Path, file: str) -> bytes:
    try:
        with machine_faults(file), path.open("rb") as opened:
            opened.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return opened.read()
    except OSError as error:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, file, f"cannot be read: {error.strerror}") from error
