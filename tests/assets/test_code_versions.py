"""The code version that Dagster shows and the code digest that decides what is made again are one."""

import ast
from fnmatch import fnmatch
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import pytest

from pipeline.definitions import definitions
from storage.code import code_digest
from storage.ingest import run as ingest
from storage.ingest import scene_writer
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_files
from teachers.nerf.config import (
    FeatureFieldConfig,
    NerfConfig,
    TeacherDepthConfig,
    TeacherFeaturesConfig,
    TeacherOccupancyConfig,
    VirtualViewsConfig,
)
from teachers.nerf.provenance import fit_provenance, render_provenance

# Said once for each resolution of the jobs; the definitions module silences it outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:Asset job everything ")

SCENE = "test.scene-1"
CHOOSING = {  # where a configuration chooses, the module chosen is a second root
    "sky_mask": {"teachers.image.sky", "teachers.image.pointrend"},
    "feature_basis": {"teachers.image.dinov2", "teachers.image.clip"},
    "dinov2_features": {"teachers.image.dinov2"},
    "clip_features": {"teachers.image.clip"},
}
MADE_BY = {"procedural_recordings": "scene_truth"}
"""Kind of what an asset makes, where it is not the asset's own name."""

NERF = (
    "nerf_teacher",
    "teacher_depth",
    "virtual_views",
    "teacher_occupancy",
    "feature_field",
    "teacher_features",
)


def producers() -> dict[str, tuple[str, ...]]:
    """Return the modules that each asset declares to be built by."""
    nodes = definitions.resolve_asset_graph().asset_nodes
    declared = {node.key.path[-1]: node.metadata["producer"] for node in nodes if node.is_executable}
    return {asset: tuple(producer.split(", ")) for asset, producer in declared.items()}


def version_of(asset: str) -> str:
    return definitions.resolve_asset_graph().get(dg.AssetKey(asset)).code_version or ""


def calls_of(module: str, *functions: str) -> list[ast.Call]:
    """Return the calls of some functions in a module's source."""
    spec = find_spec(module)
    assert spec is not None
    tree = ast.parse(Path(spec.origin or "").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [call for call in calls if call.func.id in functions]  # type: ignore[attr-defined]


def roots_asked_for(module: str) -> set[str]:
    """Return what a module hands to ``code_digest``, as it is written."""
    return {", ".join(map(ast.unparse, call.args)) for call in calls_of(module, "code_digest")}


def kinds_made(module: str) -> set[str]:
    """Return the kinds of what a module makes, ``*`` for a part that is computed."""
    calls = calls_of(module, "Provenance", "provenance_of")
    values = [keyword.value for call in calls for keyword in call.keywords if keyword.arg == "kind"]
    names = vars(import_module(module))
    # A name that is not the module's own is computed where it is used.
    return {str(eval(ast.unparse(v), names)) if ast.unparse(v).partition(".")[0] in names else "*" for v in values}


@pytest.mark.parametrize("asset", sorted(producers()))
def test_a_code_version_is_the_code_digest_of_the_producer(asset: str) -> None:
    assert version_of(asset) == code_digest(*producers()[asset], kind=MADE_BY.get(asset, asset))[:16]


@pytest.mark.parametrize("asset", sorted(set(producers()) - {"scene", *NERF}))
def test_the_provenance_asks_for_the_same_roots(asset: str) -> None:
    builder, *chosen = producers()[asset]
    assert any(fnmatch(MADE_BY.get(asset, asset), kind) for kind in kinds_made(builder))
    assert set(chosen) == CHOOSING.get(asset, set())
    (asked,) = roots_asked_for(builder)
    assert asked.partition(", ")[0] == "__name__"
    assert bool(chosen) == asked.endswith(".__module__")


def test_the_version_of_scenes_covers_what_every_format_is_read_by() -> None:
    assert roots_asked_for(scene_writer.__name__) == {"__name__, reader_module"}
    readers = {reader.open.__module__ for reader in ingest._READERS.values()}
    builder, *chosen = producers()["scene"]
    assert (builder, set(chosen)) == (scene_writer.__name__, readers)


def test_a_field_and_its_renders_have_the_code_digests_of_their_assets(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for kind in ("scene", "dinov2_features"):
        materialize_files(home, Provenance(kind=kind, partition=SCENE), lambda folder: {})
    field = materialize_files(home, fit_provenance(home, SCENE, NerfConfig(use_sky_mask=False)), lambda folder: {})
    distilled = render_provenance(home, field.version, FeatureFieldConfig(feature_sources=("dinov2",)))
    materialize_files(home, distilled, lambda folder: {})
    rendered = [
        render_provenance(home, field.version, config)
        for config in (TeacherDepthConfig(), VirtualViewsConfig(), TeacherOccupancyConfig(), TeacherFeaturesConfig())
    ]
    made = [home.provenance(field.version), *rendered[:3], distilled, rendered[3]]
    assert tuple(provenance.kind for provenance in made) == NERF
    for provenance in made:
        assert provenance.code_digest[:16] == version_of(provenance.kind)
