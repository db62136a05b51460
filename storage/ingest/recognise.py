"""What the files of a folder look like, for a user who named another format, or a folder beside the right one."""

from pathlib import Path

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.source_config import SourceFormat

_SIGNS: tuple[tuple[SourceFormat, str], ...] = (
    ("manifest", "rig_manifest.json"),
    ("nuscenes", "*/scene.json"),
    ("waymo_v2", "vehicle_pose/*.parquet"),
    ("waymo_v1", "*.tfrecord"),
)
_FILES_ONE_FOLDER_DOWN = "*/*.tfrecord"  # taken by the reader of waymo_v1, but so is any folder above such files


def check_format(source_format: SourceFormat, root: Path) -> None:
    """Check that a folder is not obviously of another format, nor beside the one that is meant.

    A folder that looks like nothing known is left to the reader of its format, which says what it misses; so is every
    folder of a format that has no sign here, whose files may look like another's.

    Args:
        source_format: Format that it was said to have.
        root: The folder.

    Raises:
        SourceDataError: If the folder, the one above it or one below it is of a known format, and this one is not of
            the format given. The message names folder and format.
    """
    seen = _formats_of(root)
    if all(source_format != known for known, _ in _SIGNS):
        return
    if source_format in seen or (source_format == "waymo_v1" and any(root.glob(_FILES_ONE_FOLDER_DOWN))):
        return
    below = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    beside = next((folder for folder in (root.absolute().parent, *below) if source_format in _formats_of(folder)), None)
    if beside is None and not seen:
        return
    hint = f"{beside} looks like one" if beside else f"it looks like {seen[0]}"
    raise SourceDataError(ErrorKind.FILE_MISSING, str(root), f"is no recording of format {source_format}, but {hint}")


def _formats_of(folder: Path) -> list[SourceFormat]:
    return [source_format for source_format, sign in _SIGNS if any(folder.glob(sign))]
