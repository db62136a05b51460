"""The description of one raw data set on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from storage.keys import SceneKey

SourceFormat = Literal["nuscenes", "waymo_v1", "waymo_v2", "manifest"]
"""Layout of a recording's files."""

SOURCE_FORMATS: tuple[SourceFormat, ...] = get_args(SourceFormat)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One raw data set on disk.

    Attributes:
        dataset: Name its scenes are known by, the first half of every scene key.
        format: Layout of the files.
        root: Folder that holds the data; made absolute, so that a source means the same from any working directory.
        version: Name of the release; for nuScenes it is the folder of the tables inside the root.
        licence: Terms of use, recorded in the provenance of everything made from it.
        link_roots: Further folders that links below the root may lead into, such as other disks; made absolute.
    """

    dataset: str
    format: SourceFormat = "nuscenes"
    root: Path
    version: str
    licence: str = "unspecified"
    link_roots: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        SceneKey(self.dataset, "any")  # raises on a name that cannot stand in a key
        if self.format not in SOURCE_FORMATS:
            raise ValueError(f"format is {self.format!r}, want one of {SOURCE_FORMATS}")
        if not self.version or any(c in self.version for c in "/\\") or self.version.startswith("."):
            raise ValueError(f"version is {self.version!r}, want the name of one folder inside the root")
        if not self.licence:
            raise ValueError("licence is empty, want the terms of use or 'unspecified'")
        object.__setattr__(self, "root", Path(self.root).absolute())
        object.__setattr__(self, "link_roots", tuple(Path(folder).absolute() for folder in self.link_roots))
