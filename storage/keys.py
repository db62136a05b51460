"""Names of scenes and stores that are safe as a folder, a URL and a Dagster partition key."""

import re
from dataclasses import dataclass

from storage.errors import ErrorKind, SourceDataError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def is_name(name: str) -> bool:
    """Tell whether ``name`` can stand in a path, a URL and a partition key."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return ``name`` if it can stand in a path, a URL and a partition key.

    Raises:
        SourceDataError: If it is empty, starts with a dot or a dash, or holds anything but letters, digits, ``_.-``.
    """
    if not is_name(name):
        raise SourceDataError(
            ErrorKind.NAME_INVALID, repr(name), "want letters, digits, '_', '.' and '-' alone, no leading '.' or '-'"
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class SceneKey:
    """Identity of one scene, and of its Dagster partition: ``<dataset>.<scene_name>``.

    Attributes:
        dataset: Name under which the source was registered, without a dot.
        scene_name: The scene's own name in that source.
    """

    dataset: str
    scene_name: str

    def __post_init__(self) -> None:
        check_name(self.dataset)
        check_name(self.scene_name)
        if "." in self.dataset:
            raise SourceDataError(ErrorKind.NAME_INVALID, repr(self.dataset), "a dataset name holds no '.'")

    def __str__(self) -> str:
        return f"{self.dataset}.{self.scene_name}"

    @classmethod
    def parse(cls, text: str) -> "SceneKey":
        """Read back what ``str`` wrote; the first dot separates dataset and scene."""
        dataset, dot, scene_name = text.partition(".")
        if not dot:
            raise SourceDataError(ErrorKind.NAME_INVALID, repr(text), "want '<dataset>.<scene_name>'")
        return cls(dataset, scene_name)


def sample_key(scene: SceneKey | str, frame_index: int) -> str:
    """Return the identity of one frame, as ``<dataset>.<scene_name>/000012``."""
    return f"{scene}/{frame_index:06d}"
