"""NeRF On-The-Road: the 120 Waymo training segments of EmerNeRF (Yang et al., 2023), and the parts that are used.

Source: ``docs/NOTR.md`` of github.com/NVlabs/EmerNeRF at commit 17386ee7. It numbers the 798 segments of the training
split of the perception data set from 0 in the alphabetical order of their names, and lists some numbers twice.
"""

from collections.abc import Sequence
from typing import Literal

from storage.errors import ErrorKind, SourceDataError
from storage.ingest.raw_scene import IngestConfig

NUM_TRAINING_SEGMENTS = 798
NOTR_CAMERAS = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")

STATIC = (
    *(3, 19, 36, 69, 81, 126, 139, 140, 146, 148, 157, 181, 200, 204, 226, 232, 237, 241, 245, 246, 271, 297, 302, 312),
    *(314, 362, 482, 495, 524, 527, 753, 780),
)
DYNAMIC = (
    *(
        16,
        21,
        22,
        25,
        31,
        34,
        35,
        49,
        53,
        80,
        84,
        86,
        89,
        94,
        96,
        102,
        111,
        222,
        323,
        382,
        402,
        427,
        438,
        546,
        581,
        592,
    ),
    *(620, 640, 700, 754, 795, 796),
)
DIVERSE = {
    "ego_static": (1, 23, 24, 37, 66, 108, 114, 115),
    "dusk_dawn": (124, 147, 206, 213, 574, 680, 696, 737),
    "gloomy": (47, 205, 220, 284, 333, 537, 699, 749),
    "exposure_mismatch": (58, 93, 143, 505, 545, 585, 765, 766),
    "nighttime": (7, 15, 30, 51, 130, 133, 159, 770),
    "rainy": (44, 56, 244, 449, 688, 690, 736, 738),
    "high_speed": (2, 41, 46, 62, 71, 73, 82, 83),
}

NotrSplit = Literal["static", "dynamic", "diverse"]


def notr_config() -> IngestConfig:
    """Return the ingest configuration of the NOTR experiments: the three forward cameras, every frame."""
    return IngestConfig(cameras=NOTR_CAMERAS)


def notr_indices(split: NotrSplit) -> tuple[int, ...]:
    """Return the numbers of a split's segments among the training segments in alphabetical order, from 0."""
    diverse = tuple(sorted(number for numbers in DIVERSE.values() for number in numbers))
    return {"static": STATIC, "dynamic": DYNAMIC, "diverse": diverse}[split]


def notr_segments(split: NotrSplit, training_segments: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a split's segments.

    Args:
        split: Name of the split.
        training_segments: Names of all training segments, in any order; the numbers are wrong if one is missing.

    Raises:
        SourceDataError: If the number of names is not that of all training segments.
    """
    names = sorted(set(training_segments))
    if len(names) != NUM_TRAINING_SEGMENTS:
        message = f"{len(names)} training segments are known, want all {NUM_TRAINING_SEGMENTS}: NOTR numbers them"
        raise SourceDataError(ErrorKind.SCENE_UNKNOWN, f"NOTR {split}", message)
    return tuple(names[number] for number in notr_indices(split))
