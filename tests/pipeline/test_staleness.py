"""Each change marks exactly what was made from what changed: by digests, and in Dagster's own view one step down.

Provenances are those of the real producers, of a tiny recording; what they would compute is left out. Training set,
student and evaluation open what they read, so that theirs are put together here, with their real configurations.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from safetensors.numpy import load_file, save_file

from assets.partition_runs import InputState, version_tags
from pipeline.definitions import asset_graph, build_definitions
from pipeline.instance import open_instance
from pipeline.partitions import add_scene_partitions
from pipeline.presets import PipelineConfig
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection
from pipeline.status import read_states
from storage.code import PROJECT, code_digest, import_closure
from storage.digests import config_digest
from storage.ingest.run import ingest_scene
from storage.ingest.source import register_source
from storage.keys import SceneKey
from storage.kinds import KINDS, FeatureSource, features_kind
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from storage.targets.images import resize_scene_images
from teachers.nerf.provenance import fit_provenance, render_provenance

# Said once for each resolution of the jobs; the definitions module silences it outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:Asset job everything ")

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"
VARIANT = "clip"
SOURCES: tuple[FeatureSource, ...] = ("dinov2", "clip")
FIELD = {"nerf_teacher", "teacher_depth", "virtual_views", "feature_field", "teacher_features"}
STUDENT = {"training_set", "student_checkpoint", "student_evaluation"}
FEATURES = {"dinov2_features", "clip_features"}
SCENE = {"scene", "input_images", "sky_mask", "depth_anything_features", "feature_basis", *FEATURES, *FIELD, *STUDENT}


@cache
def graph() -> AssetGraph:
    return asset_graph()


def without_content(home: Home, provenance: Provenance, write: object) -> Materialized:
    """Publish a version that holds nothing."""
    return materialize_files(home, provenance, lambda folder: {})


@dataclass
class World:
    """A home, Dagster's records of it, and the settings that its versions are asked for with."""

    home: Home
    recording: Any
    instance: dg.DagsterInstance
    selection: HomeSelection
    other_code: str = ""  # asset whose versions are of other code than that at hand
    asked: list[str] = field(default_factory=list)

    def ask(self, asset: str, key: str) -> StoreVersion:
        """Find or make the version of an asset that its producer would."""
        from teachers.image.run import (
            extract_depth_anything,
            extract_patch_features,
            extract_sky_mask,
            fit_feature_basis,
        )

        config, home = self.selection.resolve(VARIANT), self.home
        teachers = config.image_teachers
        of_scene: dict[str, Callable[[], Materialized]] = {
            "scene": lambda: ingest_scene(home, SceneKey.parse(key), config.ingest),
            "input_images": lambda: resize_scene_images(home, SceneKey.parse(key), config.input_images),
            "sky_mask": lambda: extract_sky_mask(home, key, teachers.sky),
            "depth_anything_features": lambda: extract_depth_anything(home, key, teachers.depth_anything),
            "feature_basis": lambda: fit_feature_basis(
                home,
                cast("FeatureSource", key),
                self.selection.scenes_of_basis,
                teachers.basis_of(cast("FeatureSource", key)),
            ),
            **{
                features_kind(source): lambda source=source: extract_patch_features(
                    home, key, source, teachers.basis_of(source).extractor
                )
                for source in SOURCES
            },
        }
        if asset in of_scene and asset != self.other_code:
            return of_scene[asset]().version
        provenance = self._provenance(asset, key, config)
        if asset == self.other_code:
            provenance = dataclasses.replace(provenance, code_digest="of an earlier release")
        return without_content(home, provenance, None).version

    def _provenance(self, asset: str, key: str, config: PipelineConfig) -> Provenance:
        if asset == "nerf_teacher":
            return fit_provenance(self.home, key, config.nerf)
        rendered: Mapping[str, Any] = {
            "teacher_depth": config.teacher_depth,
            "virtual_views": config.virtual_views,
            "feature_field": config.feature_field,
            "teacher_features": config.teacher_features,
        }
        if asset in rendered:
            return render_provenance(self.home, self.home.require("nerf_teacher", key), rendered[asset])
        inputs, settings, producer = {
            "training_set": (
                [(k, s) for s in self.selection.scenes for k in config.student.data.kinds],
                {"kinds": config.student.data.kinds, "scenes": self.selection.scenes},
                "student.data.training_set",
            ),
            "student_checkpoint": (
                [("training_set", VARIANT)],
                config.student.determining(),
                "student.training.fit",
            ),
            "student_evaluation": (
                [("student_checkpoint", VARIANT), ("feature_basis", "clip")],
                config.evaluation.determining(),
                "student.evaluation.evaluate",
            ),
        }[asset]
        return Provenance(
            kind=asset,
            partition=key,
            inputs=tuple(self.home.require(*owner).as_input for owner in inputs),
            config_digest=config_digest(settings),
            code_digest=code_digest(producer, kind=asset),
        )

    def keys(self, asset: str) -> tuple[str, ...]:
        if asset == "feature_basis":
            return SOURCES
        return self.selection.scenes if KINDS[asset].partitioned_by == "scene" else (VARIANT,)

    def make(self, *assets: str) -> None:
        """Ask for every partition of some assets, and report each version to Dagster as a run does."""
        self.asked += assets
        for asset in assets:
            code = "of an earlier release" if asset == self.other_code else graph().get(dg.AssetKey(asset)).code_version
            inputs = {parent: self._state(parent) for parent in graph().get(dg.AssetKey(asset)).parent_keys}
            for key in self.keys(asset):
                tags = version_tags(self.ask(asset, key).digest, code, inputs)
                self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, tags=tags))

    def _state(self, parent: dg.AssetKey) -> InputState:
        record = self.instance.get_latest_materialization_event(parent)
        if record is None:
            return InputState("INITIAL", None)
        (latest,) = self.instance.fetch_materializations(parent, limit=1).records
        materialization = record.asset_materialization
        assert materialization is not None
        return InputState((materialization.tags or {})["dagster/data_version"], latest.storage_id)

    def stale(self) -> set[str]:
        """Return the assets that are stale by digests, in every partition that was made."""
        states = [s for s in read_states(self.home, self.instance, graph()) if s.state != "missing"]
        return {s.asset for s in states if s.state == "stale"}

    def stale_to_dagster(self) -> set[str]:
        resolver = CachingStaleStatusResolver(self.instance, graph(), LoadingContextForTest(self.instance))
        made = [(asset, key) for asset in ORDER for key in self.keys(asset)]
        return {a for a, k in made if resolver.get_status(dg.AssetKey(a), k) is StaleStatus.STALE}


ORDER = (
    *("scene", "input_images", "sky_mask", "depth_anything_features", "feature_basis", *sorted(FEATURES)),
    *("nerf_teacher", "teacher_depth", "virtual_views", "feature_field", "teacher_features"),
    *("training_set", "student_checkpoint", "student_evaluation"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, write_recording: Callable[[Path], Any]) -> Iterator[World]:
    """Everything made, of one scene to learn from and one held out; a test leaves it as it was."""
    root = tmp_path_factory.mktemp("world")
    recording = write_recording(root / "recording")
    home = Home(root / "home")
    register_source(home, recording.source())
    selection = HomeSelection(
        preset="demo", variant=VARIANT, overrides=("input_images.height=8", "input_images.width=16")
    ).with_split([FIRST], [SECOND])
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        for module in ("extract_sky", "extract_depth", "extract_patches"):
            patch.setattr(f"teachers.image.{module}.materialize_arrays", without_content)
        add_scene_partitions(instance, (FIRST, SECOND))
        made = World(home, recording, instance, selection)
        made.make(*ORDER)
        yield made


@contextmanager
def to_be_undone(world: World) -> Iterator[None]:
    """Restore recording, source and settings at the end, and ask for the assets again that were asked for within."""
    root, aside = world.recording.root, world.home.root / "aside"
    source = world.home.root / "sources" / "tiny.json"
    before, registered = dataclasses.replace(world), source.read_text()
    shutil.copytree(root, aside)
    world.asked = []
    try:
        yield
    finally:
        shutil.rmtree(root)
        shutil.move(aside, root)
        source.write_text(registered)
        world.selection, world.other_code = before.selection, before.other_code
        world.make(*sorted(set(world.asked), key=ORDER.index))


def override(*changes: str) -> Callable[[World], None]:
    def mutate(world: World) -> None:
        selection = world.selection
        world.selection = dataclasses.replace(selection, overrides=(*selection.overrides, *changes))

    return mutate


def move_a_camera(world: World) -> None:
    for scene in ("scene-0001", "scene-0002"):
        world.recording.set("calibrated_sensor", f"{scene}/calibration-CAM_FRONT", translation=[1.75, 0.0, 1.5])


def change_an_image(world: World) -> None:
    for scene in ("scene-0001", "scene-0002"):
        path = world.recording.root / world.recording.file(scene, "CAM_FRONT", 0)
        path.write_bytes(path.read_bytes() + b"\0")


def change_the_licence(world: World) -> None:
    path = world.home.root / "sources" / "tiny.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "licence": "CC-BY-4.0"}))


def change_the_code(world: World) -> None:
    world.other_code = "nerf_teacher"


def change_nothing(world: World) -> None:
    pass


def change_the_weights(world: World) -> None:
    """Take another checkpoint of the same model, as a fine-tuned one would be."""
    from teachers.image.weights import DEMO_WEIGHTS, TeacherModel

    folder = world.home.root / "weights"
    shutil.copytree(DEMO_WEIGHTS / TeacherModel.LITE.value, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim)
    tensors = {key: np.atleast_1d(value) if value.ndim else np.asarray(value) for key, value in tensors.items()}
    save_file({**tensors, name: tensors[name] + 1}, folder / "model.safetensors", metadata={"format": "pt"})
    override(f"image_teachers.sky.weights.source={folder}")(world)


BASIS = "image_teachers.clip_basis"
CASES: dict[str, tuple[Callable[[World], None], str, set[str]]] = {
    "calibration": (move_a_camera, "scene", SCENE - {"scene"}),
    "image": (change_an_image, "scene", SCENE - {"scene"}),
    "field config": (override("nerf.num_steps=7"), "nerf_teacher", (FIELD - {"nerf_teacher"}) | STUDENT),
    "weights": (change_the_weights, "sky_mask", FIELD | STUDENT),
    "basis": (
        override(f"{BASIS}.num_components=7"),
        "feature_basis",
        {"clip_features", "feature_field", "teacher_features"} | STUDENT,
    ),
    "code in the closure": (change_the_code, "nerf_teacher", FIELD | STUDENT),
    "licence": (change_the_licence, "scene", SCENE - {"scene"}),
    "seed": (override("nerf.seed=7"), "nerf_teacher", (FIELD - {"nerf_teacher"}) | STUDENT),
    "sample of the basis": (
        override(f"{BASIS}.frames_per_scene=2"),
        "feature_basis",
        {"clip_features", "feature_field", "teacher_features"} | STUDENT,
    ),
    "loss weight": (override("student.losses.rgb=0.25"), "student_checkpoint", {"student_evaluation"}),
    "evaluation setting": (override("evaluation.num_training_frames=2"), "student_evaluation", set()),
    "identical rebuild": (change_nothing, "scene", set()),
}
"""What changes, the asset that is asked for again, and what is stale then."""


@pytest.mark.parametrize("case", CASES)
def test_a_change_marks_what_was_made_from_it_and_nothing_else(world: World, case: str) -> None:
    mutate, asked, stale = CASES[case]
    assert (world.stale(), world.stale_to_dagster()) == (set(), set())
    before = world.home.require(asked, world.keys(asked)[-1])
    with to_be_undone(world):
        mutate(world)
        world.make(asked)
        after = world.home.require(asked, world.keys(asked)[-1])
        assert (before.digest != after.digest) == (case != "identical rebuild")
        assert world.stale() == stale
        below = {a for a in ORDER if dg.AssetKey(asked) in graph().get(dg.AssetKey(a)).parent_keys}
        if asked == "feature_basis":
            below.discard("dinov2_features")  # its basis is another partition, which stays
        own_code = {asked} if case == "code in the closure" else set()
        assert world.stale_to_dagster() == (below | own_code if case != "identical rebuild" else set())


def test_a_comment_is_no_change_and_a_statement_is(tmp_path: Path) -> None:
    closure = import_closure("teachers.nerf.fit")
    for module in closure:
        name = Path(*module.split("."))
        source = next(p for p in (PROJECT / name.with_suffix(".py"), PROJECT / name / "__init__.py") if p.is_file())
        copy = tmp_path / source.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)

    def code_version() -> str:
        return code_digest("teachers.nerf.fit", kind="nerf_teacher", project=tmp_path)[:16]

    changed = tmp_path / "teachers" / "nerf" / "fit.py"
    changed.write_text(changed.read_text() + "\n# what a reader should know\n")
    assert code_version() == graph().get(dg.AssetKey("nerf_teacher")).code_version
    changed.write_text(changed.read_text() + "\nMORE = 1\n")
    assert code_version() != graph().get(dg.AssetKey("nerf_teacher")).code_version


def test_a_new_training_scene_leaves_features_alone_unless_the_basis_is_to_follow(world: World) -> None:
    kept = world.home.require("feature_basis", "clip").digest
    more = [FIRST, SECOND]
    with to_be_undone(world):
        world.selection = world.selection.with_split(more, [])
        world.make("feature_basis", "training_set", "student_checkpoint", "student_evaluation")
        assert world.home.require("feature_basis", "clip").digest == kept
        assert (world.stale(), world.stale_to_dagster()) == (set(), set())
        world.selection = world.selection.with_split(more, [], follow_basis=True)
        world.make("feature_basis")
        assert world.home.require("feature_basis", "clip").digest != kept
        assert world.stale() == {*FEATURES, "feature_field", "teacher_features", *STUDENT}


@pytest.mark.filterwarnings("ignore:Parameter `tags`")
def test_every_scene_of_a_run_over_several_is_up_to_date_to_dagster(prepared_home: Home) -> None:
    """Such a run writes an event for each scene, which used to name no input: Dagster took each for a new one."""
    definitions = build_definitions(home=HomeResource(root=str(prepared_home.root)))
    job = definitions.resolve_implicit_global_asset_job_def()
    with open_instance(prepared_home.root) as instance:
        for asset in ("scene", "input_images"):
            made = job.execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey(asset)],
                tags={"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": SECOND},
            )
            assert made.success
        resolver = CachingStaleStatusResolver(instance, graph(), LoadingContextForTest(instance))
        for key in (FIRST, SECOND):
            assert resolver.get_stale_causes(dg.AssetKey("input_images"), key) == []
            assert resolver.get_status(dg.AssetKey("input_images"), key) is StaleStatus.FRESH
