"""Hold the occupancy that LiDAR tells against the exact grid of a procedural drive.

``python -m storage.references.proof HOME SCENE [--every N] [--alone]`` prints agreement inside what was observed.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from storage.kinds import Kind
from storage.references.config import LidarOccupancyConfig
from storage.references.lidar_occupancy import votes_of_scene
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarAgreement:
    """Voxels by what beams say and what is true, which add up over frames.

    Attributes:
        both: Called occupied, and occupied.
        invented: Called occupied, and free.
        falsely_free: Called free, and occupied.
        free: Called free, and free.
        unknown_occupied: Unknown, and occupied.
        unknown_free: Unknown, and free.
    """

    both: int = 0
    invented: int = 0
    falsely_free: int = 0
    free: int = 0
    unknown_occupied: int = 0
    unknown_free: int = 0

    @classmethod
    def of(cls, said: UInt8[np.ndarray, "x y z"], exact: UInt8[np.ndarray, "x y z"]) -> "LidarAgreement":
        """Count one frame."""
        is_unknown, is_occupied = said == OCC3D_UNKNOWN, exact != OCC3D_FREE
        says_free = said == OCC3D_FREE
        says_occupied = ~is_unknown & ~says_free
        return cls(
            both=int(np.sum(says_occupied & is_occupied)),
            invented=int(np.sum(says_occupied & ~is_occupied)),
            falsely_free=int(np.sum(says_free & is_occupied)),
            free=int(np.sum(says_free & ~is_occupied)),
            unknown_occupied=int(np.sum(is_unknown & is_occupied)),
            unknown_free=int(np.sum(is_unknown & ~is_occupied)),
        )

    def __add__(self, other: "LidarAgreement") -> "LidarAgreement":
        return LidarAgreement(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    @property
    def iou(self) -> float:
        """Intersection over union of what is occupied, inside what was observed."""
        return self.both / (self.both + self.invented + self.falsely_free)

    @property
    def false_free_rate(self) -> float:
        """Share of what is called free that is occupied."""
        return self.falsely_free / (self.falsely_free + self.free)

    @property
    def missed_rate(self) -> float:
        """Share of what is occupied, inside what was observed, that is called free."""
        return self.falsely_free / (self.falsely_free + self.both)

    @property
    def known_share(self) -> float:
        """Share of the grid about which something is said."""
        known = self.both + self.invented + self.falsely_free + self.free
        return known / (known + self.unknown_occupied + self.unknown_free)


def agreement(home: Home, key: str, config: LidarOccupancyConfig, *, every: int = 1) -> LidarAgreement:
    """Return the agreement over every so many frames of a procedural scene.

    Raises:
        MissingTargetError: If the scene or its truth is not in the home.
    """
    scene = SceneReader.open(home, key)
    truth = home.open_arrays(home.require(Kind.SCENE_TRUTH, key))
    total = LidarAgreement()
    for frame, votes in votes_of_scene(scene, config, frames=range(0, scene.num_frames, every)):
        total += LidarAgreement.of(votes.voxel_label, read_target(truth, Kind.SCENE_TRUTH, "occupancy", frame))
    return total


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row for each scene, with all sweeps and with the frame's own alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("scenes", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="score every so many frames")
    chosen = parser.parse_args(arguments)
    config = LidarOccupancyConfig()
    sys.stdout.write("scene | sweeps | IoU | falsely free | missed | known\n")
    for key in chosen.scenes:
        for name, settings in (("all", config), ("own", replace(config, window_s=0.0))):
            found = agreement(Home(chosen.home), key, settings, every=chosen.every)
            rates = f"{found.iou:.3f} | {found.false_free_rate:.2%} | {found.missed_rate:.2%} | {found.known_share:.1%}"
            sys.stdout.write(f"{key} | {name} | {rates}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
