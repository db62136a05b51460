"""The official splits of nuScenes by name, as its devkit lists them."""

from storage.errors import ErrorKind, SourceDataError

# Splits of each release: the names mean nothing in another one.
SPLITS_OF_VERSION = {
    "v1.0-mini": ("mini_train", "mini_val"),
    "v1.0-trainval": ("train", "val", "train_detect", "train_track"),
    "v1.0-test": ("test",),
}
SPLIT_NAMES = tuple(name for names in SPLITS_OF_VERSION.values() for name in names)


def split_scenes(split: str, version: str) -> tuple[str, ...]:
    """Return the names of a split's scenes, in the devkit's order.

    Raises:
        SourceDataError: If the release has no such split.
    """
    from nuscenes.utils.splits import create_splits_scenes  # seconds: it imports the whole devkit

    wanted = SPLITS_OF_VERSION.get(version, SPLIT_NAMES)
    if split not in wanted:
        message = f"has no split {split!r}, only {', '.join(wanted)}"
        raise SourceDataError(ErrorKind.SCENE_UNKNOWN, f"nuScenes {version}", message)
    return tuple(create_splits_scenes()[split])


def splits_of_scene(scene_name: str, version: str) -> list[str]:
    """Return the official splits of a release that a scene belongs to; empty for an unknown scene."""
    return [split for split in SPLITS_OF_VERSION.get(version, ()) if scene_name in split_scenes(split, version)]
