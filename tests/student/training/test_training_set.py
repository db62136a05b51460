"""What may be frozen, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from storage.audits.finding import Finding
from storage.audits.scene_audit import gate_of
from storage.errors import ErrorKind, IntegrityError, MissingTargetError, ProvenanceMismatchError
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import materialize_files, reuse
from student.config import StudentConfig, TrainingSetConfig
from student.data.training_set import freeze_training_set, load_training_set
from student.reporting.lineage import trace_lineage

PASSED = {"quality": {"passed": True, "checks": {"psnr": {"value": 20.0, "threshold": 18.0, "passed": True}}}}
FEATURES = np.random.default_rng(0).random((4, 3, 2, 3, 4)).astype(np.float16)


def test_freezes_exact_versions_and_splits(shared_world: Any, student_config: StudentConfig) -> None:
    config = shared_world.training_set(student_config)
    made = freeze_training_set(shared_world.home, "splits", config)
    frozen = load_training_set(shared_world.home, "splits")
    assert [scene.key for scene in frozen.scenes] == ["yard.a", "yard.b"]
    assert frozen.scenes[0].train_frames == (0, 1, 2, 3)
    assert frozen.scenes[0].validation_frames == ()
    assert frozen.scenes[1].validation_frames == (0, 1, 2, 3)
    for scene in frozen.scenes:
        assert set(scene.stores) == {"scene_audit", *student_config.data.kinds}
        for kind, version in scene.stores.items():
            assert version == shared_world.home.latest(kind, scene.key)
    inputs = shared_world.home.provenance(made.version).inputs
    assert len(inputs) == 2 * (1 + len(student_config.data.kinds))
    assert made.metrics["train_samples"] == 4
    assert shared_world.home.provenance(made.version).licence == "CC0-1.0"


def test_freezing_again_reuses(shared_world: Any, student_config: StudentConfig) -> None:
    config = shared_world.training_set(student_config)
    first = freeze_training_set(shared_world.home, "again", config)
    second = freeze_training_set(shared_world.home, "again", config)
    assert second.reused
    assert second.version == first.version


def test_what_was_seen_to_be_sound_is_not_looked_at_again(
    make_world: Callable[[], Any], student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    looked_at: list[str] = []

    def look(_home: Any, version: Any, **_: Any) -> list[Finding]:
        looked_at.append(version.kind)
        return []

    monkeypatch.setattr("student.data.training_set.check_physics", look)
    config = world.training_set(student_config, validation_scenes=(), allow_ungated=("clip_features",))

    def freeze(name: str = "sound", **changes: Any) -> list[str]:
        looked_at.clear()
        freeze_training_set(world.home, name, replace(config, **changes))
        return sorted(looked_at)

    everything = sorted({"scene_audit", *config.kinds} - {"clip_features"})
    assert freeze() == everything
    assert freeze() == []
    assert freeze("another") == everything  # of which nothing was frozen yet
    # What was let through unseen is looked at as soon as it must be sound.
    assert freeze(allow_ungated=()) == ["clip_features"]
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="2")
    assert freeze(allow_ungated=()) == ["clip_features"]
    monkeypatch.setattr("student.data.training_set.code_digest", lambda *_, **__: "2" * 64)
    assert freeze(allow_ungated=()) == sorted({"scene_audit", *config.kinds})


def test_a_damaged_training_set_vouches_for_nothing(
    make_world: Callable[[], Any], student_config: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    config = world.training_set(student_config, validation_scenes=())
    freeze_training_set(world.home, "damaged", config)
    looked_at: list[str] = []
    monkeypatch.setattr("student.data.training_set.check_physics", lambda _h, v, **_: looked_at.append(v.kind) or [])
    freeze_training_set(world.home, "damaged", config)
    assert not looked_at

    def damaged(*_: Any) -> Any:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, "training_set/damaged", "its manifest is torn")

    monkeypatch.setattr("student.data.training_set.load_training_set", damaged)
    freeze_training_set(world.home, "damaged", config)
    assert sorted(looked_at) == sorted({"scene_audit", *config.kinds})


def test_a_new_version_of_a_store_makes_another_training_set(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    config = world.training_set(student_config, validation_scenes=())
    first = freeze_training_set(world.home, "x", config)
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="2")
    second = freeze_training_set(world.home, "x", config)
    assert second.version.digest != first.version.digest
    # The first stays readable, and still names the old features.
    old = load_training_set(world.home, "x", first.version.digest)
    new = load_training_set(world.home, "x")
    assert old.scenes[0].stores["clip_features"].snapshot_id != new.scenes[0].stores["clip_features"].snapshot_id


def test_a_single_scene_holds_out_frames(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("stride", student_config, validation_scenes=(), held_out_stride=2)
    (scene,) = load_training_set(shared_world.home, "stride").scenes
    assert scene.train_frames == (0, 2)
    assert scene.validation_frames == (1, 3)


def fitted_to(world: Any, frames: list[int] | None) -> None:
    """Publish depth of a field that was fitted to these frames of ``yard.a``; None does not say which."""
    home = world.home
    scene = home.require("scene", "yard.a").as_input
    field = Provenance(
        kind="nerf_teacher", partition="yard.a", inputs=(scene,), code_digest=str(frames), licence="CC0-1.0"
    )
    metrics = PASSED if frames is None else {**PASSED, "fitted_frames": frames}
    version = materialize_files(home, field, lambda folder: metrics).version
    stored = home.open_arrays(home.require("teacher_depth", "yard.a"))
    arrays = {name: np.asarray(stored[name]) for name in ("termination_depth", "opacity", "intrinsics")}
    world.publish("teacher_depth", "yard.a", arrays, inputs=(scene, version.as_input), code=str(frames))


def test_a_teacher_that_saw_held_out_frames_is_refused(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    split: dict[str, Any] = {"validation_scenes": (), "held_out_stride": 2}
    fitted_to(world, [0, 2])
    world.freeze("x", student_config, **split)
    fitted_to(world, [0, 1, 2, 3])
    with pytest.raises(ProvenanceMismatchError, match=r"fitted to frames \[1, 3\], which are held out") as caught:
        world.freeze("x", student_config, **split)
    assert caught.value.key == "nerf_teacher/yard.a"
    world.freeze("x", student_config, validation_scenes=())  # nothing of the scene is held out
    fitted_to(world, None)
    with pytest.raises(ProvenanceMismatchError, match="does not say its fitted frames"):
        world.freeze("x", student_config, **split)


def test_a_field_that_is_gone_proves_nothing(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    fitted_to(world, [0, 2])
    shutil.rmtree(world.home.open_files(world.home.require("nerf_teacher", "yard.a")))
    with pytest.raises(ProvenanceMismatchError, match="is gone"):
        world.freeze("x", student_config, validation_scenes=(), held_out_stride=2)


def test_missing_store_is_refused_by_kind_and_scene(shared_world: Any, student_config: StudentConfig) -> None:
    with pytest.raises(MissingTargetError) as caught:
        shared_world.freeze("missing", student_config, kinds=(*student_config.data.kinds, "dinov2_features"))
    assert caught.value.key == "dinov2_features/yard.a"
    with pytest.raises(MissingTargetError) as caught:
        shared_world.freeze("missing", student_config, validation_scenes=("yard.nowhere",))
    assert caught.value.key == "scene/yard.nowhere"
    assert shared_world.home.latest("training_set", "missing") is None


FAILED_AUDIT = {
    "quality": gate_of(
        [
            Finding(name="ground_tilt_deg", value=0.4, threshold=10.0, wanted="at_most"),
            Finding(
                name="gain_of_changing_rig", value=1.07, threshold=1.0, wanted="at_most", where="turn z +0.75 degree"
            ),
        ]
    )
}


def test_a_scene_whose_audit_failed_is_taken_by_name_alone(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()

    def freeze(*allowed: str) -> Any:
        return world.freeze("audit", student_config, validation_scenes=(), allow_ungated=allowed)

    world.publish_audit("yard.a", FAILED_AUDIT)
    with pytest.raises(MissingTargetError, match=r"gain_of_changing_rig is 1\.07, want ≤ 1") as caught:
        freeze()
    assert (caught.value.kind, caught.value.key) == ("target_gate_failed", "scene_audit/yard.a")
    made = freeze("scene_audit")
    assert made.metrics["ungated_kinds"] == ["scene_audit"]
    worst = trace_lineage(world.home, made.version.as_input).gates[0]
    assert (worst.kind, worst.check, worst.value, worst.passed) == ("scene_audit", "gain_of_changing_rig", 1.07, False)
    assert worst.where == "turn z +0.75 degree"

    other = replace(
        world.home.provenance(world.home.require("scene_audit", "yard.a")),
        inputs=(InputVersion("scene", "yard.a", "0" * 64),),
    )
    materialize_files(world.home, other, lambda _: PASSED)
    with pytest.raises(ProvenanceMismatchError, match=r"scene/yard\.a"):
        freeze()
    freeze("scene_audit")

    shutil.rmtree(world.home.root / "artifacts" / "scene_audit")
    with pytest.raises(MissingTargetError, match=r"scene_audit/yard\.a"):
        freeze()


def test_a_failed_audit_leaves_a_scene_out_with_the_value(shared_world: Any, student_config: StudentConfig) -> None:
    sound = shared_world.home.require("scene_audit", "yard.b")
    shared_world.publish_audit("yard.b", FAILED_AUDIT)
    scenes = {"train_scenes": ("yard.a", "yard.b"), "validation_scenes": ()}
    made = shared_world.freeze("audited", student_config, **scenes, on_failed_gate="leave_out")
    reuse(shared_world.home, shared_world.home.provenance(sound))
    reason = "did not pass its quality gate: gain_of_changing_rig is 1.07, want ≤ 1 (turn z +0.75 degree)"
    (left_out,) = made.metrics["left_out"].items()
    assert left_out[0] == "yard.b"
    assert left_out[1].startswith(f"scene_audit {reason}; look at camera.jpg")


@pytest.mark.parametrize(
    "metrics",
    [{}, {"quality": {"passed": False, "checks": {"psnr": {"value": 9.0, "threshold": 18.0, "passed": False}}}}],
    ids=["never judged", "failed"],
)
def test_ungated_target_is_refused_unless_allowed_by_name(
    make_world: Callable[[], Any], student_config: StudentConfig, metrics: dict[str, Any]
) -> None:
    world = make_world()
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="2", metrics=metrics)
    with pytest.raises(MissingTargetError) as caught:
        world.freeze("gate", student_config, validation_scenes=())
    assert caught.value.key == "clip_features/yard.a"
    if metrics:
        assert "psnr is 9, want ≥ 18" in caught.value.message
    world.freeze("gate", student_config, validation_scenes=(), allow_ungated=("clip_features",))
    assert load_training_set(world.home, "gate").num_train_samples == 4


FAILED = {"quality": {"passed": False, "checks": {"psnr": {"value": 9.0, "threshold": 18.0, "passed": False}}}}


def test_a_scene_that_failed_its_gate_is_left_out_and_named(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    world.add_scene("yard.b", 1)
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="2", metrics=FAILED)
    both = {"train_scenes": ("yard.a", "yard.b"), "validation_scenes": (), "on_failed_gate": "leave_out"}
    made = world.freeze("left-out", student_config, **both)
    frozen = load_training_set(world.home, "left-out")
    assert [scene.key for scene in frozen.scenes] == ["yard.b"]
    assert frozen.left_out == made.metrics["left_out"]
    assert frozen.left_out.keys() == {"yard.a"}
    assert "clip_features did not pass its quality gate: psnr is 9, want ≥ 18" in frozen.left_out["yard.a"]


def test_leaving_out_never_leaves_nothing_nor_a_held_out_scene_nor_what_was_not_judged(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    world.add_scene("yard.b", 1)
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="2", metrics=FAILED)

    def refused(**scenes: tuple[str, ...]) -> str:
        with pytest.raises(MissingTargetError) as caught:
            world.freeze("refused", student_config, on_failed_gate="leave_out", **scenes)
        assert caught.value.key == "clip_features/yard.a"
        return caught.value.kind

    assert refused(train_scenes=("yard.a",), validation_scenes=()) == "target_gate_failed"
    assert refused(train_scenes=("yard.b",), validation_scenes=("yard.a",)) == "target_gate_failed"
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="3", metrics={})
    assert refused(train_scenes=("yard.a", "yard.b"), validation_scenes=()) == "target_ungated"


@pytest.mark.parametrize("kind", ["scene_truth", "weak_labels"])
def test_the_truth_is_never_learned_from(shared_world: Any, student_config: StudentConfig, kind: str) -> None:
    with pytest.raises(MissingTargetError) as caught:
        shared_world.freeze("truth", student_config, kinds=(*student_config.data.kinds, kind))
    assert caught.value.kind == "target_forbidden"


def test_targets_of_another_ingest_are_refused(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    stale = (InputVersion("scene", "yard.a", "0" * 64),)
    world.publish("clip_features", "yard.a", {"features": FEATURES}, code="2", inputs=stale)
    with pytest.raises(ProvenanceMismatchError) as caught:
        world.freeze("stale", student_config, validation_scenes=())
    assert caught.value.key == "scene/yard.a"


def test_features_of_two_bases_are_refused(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    world.add_scene("yard.b", 1)
    for key, basis in (("yard.a", "1"), ("yard.b", "2")):
        inputs = (
            InputVersion("scene", key, world.home.require("scene", key).digest),
            InputVersion("feature_basis", "clip", basis * 64),
        )
        world.publish("clip_features", key, {"features": FEATURES}, code="2", inputs=inputs)
    with pytest.raises(ProvenanceMismatchError) as caught:
        world.freeze("bases", student_config)
    assert caught.value.key == "feature_basis/clip"


def test_a_store_with_other_frames_is_refused(make_world: Callable[[], Any], student_config: StudentConfig) -> None:
    world = make_world()
    world.publish("clip_features", "yard.a", {"features": FEATURES[:3]}, code="2")
    with pytest.raises(IntegrityError, match="3 frames of 3 cameras"):
        world.freeze("short", student_config, validation_scenes=())


def test_unknown_kind_and_overlapping_splits_are_mistakes(shared_world: Any, student_config: StudentConfig) -> None:
    with pytest.raises(ValueError, match="want some of scene"):
        shared_world.freeze("kinds", student_config, kinds=(*student_config.data.kinds, "lidar_dreams"))
    with pytest.raises(ValueError, match="both splits"):
        TrainingSetConfig(train_scenes=("a.b",), validation_scenes=("a.b",))
    with pytest.raises(ValueError, match="every sample reads"):
        replace(shared_world.training_set(student_config), kinds=("scene",))
