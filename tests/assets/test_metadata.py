"""What the page of a student says in Dagster about the versions that it was made from."""

from pathlib import Path
from typing import Any

from assets.metadata import describe
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files

SCENE = "a.one"


def make(home: Home, kind: str, partition: str, *inputs: StoreVersion, gate: bool | None = None) -> Materialized:
    quality: dict[str, Any] = {"passed": gate, "checks": {"bias": {"value": 1.0, "threshold": 2.0, "passed": gate}}}
    provenance = Provenance(kind=kind, partition=partition, inputs=tuple(version.as_input for version in inputs))
    return materialize_files(home, provenance, lambda folder: {} if gate is None else {"quality": quality})


def table(home: Home, made: Materialized) -> list[str]:
    return describe(home, made)["training_targets"].value.splitlines()


def test_a_checkpoint_lists_every_target_with_gate_and_link_and_failed_ones_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    scene = make(home, "scene", SCENE).version
    masks = make(home, "sky_mask", SCENE, scene, gate=True).version
    depth = make(home, "teacher_depth", SCENE, scene, gate=False).version
    frozen = make(home, "training_set", "depth", scene, masks, depth).version
    checkpoint = make(home, "student_checkpoint", "depth", frozen, gate=True)
    rows = table(home, checkpoint)
    assert "| teacher_depth | 1 | 0 | 1 |" in rows
    assert "| sky_mask | 1 | 1 | 0 |" in rows
    assert "| scene | 1 | - | - |" in rows
    (first, *others) = [row for row in rows if row.startswith("| [")]
    link = f"/assets/teacher_depth?view=partitions&partition={SCENE}"
    assert first == f"| [teacher_depth]({link}) | {SCENE} | `{depth.digest[:12]}` | ✗ |"
    assert (
        f"| [scene](/assets/scene?view=partitions&partition={SCENE}) | {SCENE} | `{scene.digest[:12]}` | none |"
        in others
    )
    assert "training_targets" not in describe(home, make(home, "feature_basis", "dinov2"))

    basis = make(home, "feature_basis", "clip", scene, gate=True).version
    evaluated = make(home, "transfer_evaluation", "depth", checkpoint.version, basis)
    kinds = {row.split("]")[0].removeprefix("| [") for row in table(home, evaluated) if row.startswith("| [")}
    assert kinds == {"student_checkpoint", "training_set", "feature_basis", "scene", "sky_mask", "teacher_depth"}


def test_a_long_table_is_cut_and_says_how_to_see_the_rest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("assets.metadata._MAX_TARGET_ROWS", 2)
    home = Home(tmp_path)
    scenes = [make(home, "scene", f"a.s{i}").version for i in range(5)]
    frozen = make(home, "training_set", "depth", *scenes).version
    rows = table(home, make(home, "student_checkpoint", "depth", frozen))
    assert sum(row.startswith("| [") for row in rows) == 2
    assert rows[-1] == "4 more: `distillnerf lineage student_checkpoint/depth --html PAGE`"
