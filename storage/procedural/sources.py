"""Which modules determine the pictures and the data sets, for code digests.

The package also holds writers of other formats, whose changes must not make every data set stale. A test keeps these
lists equal to what is really imported.
"""

from functools import cache

from storage.stores.provenance import code_digest

_PACKAGE = "storage.procedural"
_WORLD = (
    "aircraft", "airside", "buildings", "classes", "conditions", "furniture", "ground", "ground_support", "layout",
    "lighting", "materials", "mesh", "nature", "painting", "people", "posed_camera", "raycast", "render", "shading",
    "solids", "street", "street_plan", "street_traffic", "texture_facades", "texture_objects", "texture_surfaces",
    "thin_structures", "traffic", "two_wheelers", "vehicles", "wet_ground", "world",
)  # fmt: skip
_DATASET = (
    "annotate", "config", "manifest_output", "nuscenes_output", "nuscenes_writer", "occupancy", "recorder", "rigs",
    "run", "sensors", "sources", "truth", "visibility",
)  # fmt: skip

WORLD_MODULES: tuple[str, ...] = tuple(f"{_PACKAGE}.{name}" for name in _WORLD)
"""What determines ``build_world`` and ``render_camera``."""

DATASET_MODULES: tuple[str, ...] = WORLD_MODULES + tuple(f"{_PACKAGE}.{name}" for name in _DATASET)
"""What determines ``generate_dataset``."""


@cache
def world_code_digest() -> str:
    """Return the digest of what determines worlds and renders, as this process loaded it."""
    return code_digest(*WORLD_MODULES)


@cache
def dataset_code_digest() -> str:
    """Return the digest of what determines generated data sets, as this process loaded it."""
    return code_digest(*DATASET_MODULES)
