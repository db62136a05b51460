"""What the lineage of a checkpoint says in summary and as a page, and how two checkpoints differ."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.lineage_summary import lineage_page, summarise
from pipeline.version_diff import compare
from storage.stores import catalog
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, StoreVersion, materialize_files

HOSTILE = '<script>alert("x")</script>'
FIRST, SECOND = "a.one", "a.two"


def gate(passed: bool, value: float) -> dict[str, Any]:
    return {"quality": {"passed": passed, "checks": {"depth_bias": {"value": value, "passed": passed}}}}


def make(
    home: Home, kind: str, partition: str, *inputs: StoreVersion, metrics: Any = None, **facts: Any
) -> StoreVersion:
    provenance = Provenance(kind=kind, partition=partition, inputs=tuple(v.as_input for v in inputs), **facts)
    return materialize_files(home, provenance, lambda folder: metrics or {}).version


def student(
    home: Home, *, variant: str = "depth", steps: int = 10, scenes: tuple[str, ...] = (FIRST,), **own: Any
) -> StoreVersion:
    """A checkpoint on the depth of some scenes, rendered from fields that were fitted with some steps."""
    rendered = []
    for key in scenes:
        scene = make(home, "scene", key, sources={f"{key}/{HOSTILE}.jpg": "ab" * 32}, licence=HOSTILE)
        field = make(home, "nerf_teacher", key, scene, config={"num_steps": steps}, config_digest=str(steps))
        rendered.append(make(home, "teacher_depth", key, field, scene, metrics=gate(steps > 10, 0.1 / steps)))
    frozen = make(home, "training_set", variant, *rendered)
    metrics: Mapping[str, Any] = {"loss": 1 / steps, **gate(steps > 10, 1 / steps)}
    return make(home, "student_checkpoint", variant, frozen, metrics=metrics, **own)


def call(capsys: pytest.CaptureFixture[str], home: Home, *arguments: str) -> tuple[int, str]:
    code = cli.main([*arguments, "--home", str(home.root)])
    return code, capsys.readouterr().out


def test_the_summary_counts_each_kind_and_names_what_failed(tmp_path: Path, capsys) -> None:
    home = Home(tmp_path)
    student(home, scenes=(FIRST, SECOND))
    code, said = call(capsys, home, "lineage", "depth")
    assert code == 0
    counts = dict(re.findall(r"^ *(\w+) +(\d+)\b", said, re.MULTILINE))
    wanted = {"student_checkpoint": "1", "training_set": "1", "teacher_depth": "2", "nerf_teacher": "2", "scene": "2"}
    assert counts == {**wanted, "raw_file": "2"}
    assert re.search(rf"teacher_depth +2 +✗ 2 failed: {FIRST}, {SECOND}", said)
    assert ".jpg" not in said
    assert ".jpg" not in call(capsys, home, "lineage", "depth", "--tree")[1]
    assert ".jpg" in call(capsys, home, "lineage", "depth", "--files")[1]


def test_the_page_holds_every_version_and_escapes_what_comes_from_a_home(tmp_path: Path, capsys) -> None:
    home = Home(tmp_path / "home")
    checkpoint = student(home)
    page = tmp_path / "pages" / "lineage.html"
    code, _ = call(capsys, home, "lineage", "depth", "--html", str(page))
    assert code == 0
    text = page.read_text()
    for version in home.versions():
        assert f'id="v-{version.digest}"' in text, version
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert set(re.findall(r'(?:src|href)="([^#"]+)"', text)) == set(), "nothing outside the page is loaded"
    root = catalog.lineage(home.objects, checkpoint.as_input)
    groups = {group.kind: group for group in summarise(home, root)}
    assert groups["teacher_depth"].failed == [FIRST]
    assert [groups[kind].depth for kind in ("student_checkpoint", "training_set", "teacher_depth")] == [0, 1, 2]
    assert groups["raw_file"].depth == 5  # behind scene, which is behind the field, though depth reads it too
    assert lineage_page(root, list(groups.values())) == text


def test_a_diff_tells_each_reason_once_and_where_it_lies(tmp_path: Path, capsys) -> None:
    home = Home(tmp_path)
    first, second = student(home, scenes=(FIRST, SECOND)), student(home, steps=20, scenes=(FIRST, SECOND))
    found = compare(home, first, second)
    (reason,) = found.differences
    assert (reason.kind, reason.facet, reason.name) == ("nerf_teacher", "config", "num_steps")
    assert (reason.first, reason.second, reason.partitions) == (10, 20, (FIRST, SECOND))
    assert found.changed == {"student_checkpoint": 1, "training_set": 1, "teacher_depth": 2, "nerf_teacher": 2}
    assert found.gates["depth_bias"] == ({"value": 0.1, "passed": False}, {"value": 0.05, "passed": True})
    assert found.figures == {"loss": (0.1, 0.05)}
    code, said = call(
        capsys, home, "diff", str(first), f"depth@{second.digest}".replace("depth@", "student_checkpoint/depth@")
    )
    assert code == 1
    assert f"num_steps: 10 → 20  nerf_teacher of {FIRST}, {SECOND}" in said
    assert re.search(r"depth_bias +0.1 ✗ +0.05 ✓", said)


@pytest.mark.parametrize(
    ("own", "facet"),
    [
        ({"code_digest": "c" * 64}, "code"),
        ({"weights_digests": {"encoder": "d" * 64}}, "weights"),
        ({"seed": 3}, "seed"),
        ({"licence": "CC0-1.0"}, "licence"),
        ({"config_digest": "x", "config": {"fit": {"max_steps": 3}}}, "config"),
        ({"sources": {"f": "e" * 64}}, "data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_aspect_of_a_checkpoint_is_told_apart(tmp_path: Path, own: dict[str, Any], facet: str) -> None:
    home = Home(tmp_path)
    (reason,) = compare(home, student(home), student(home, **own)).differences
    assert (reason.kind, reason.facet) == ("student_checkpoint", facet)


def test_scenes_that_only_one_side_has_are_named(tmp_path: Path, capsys) -> None:
    home = Home(tmp_path)
    first, second = student(home), student(home, scenes=(FIRST, SECOND))
    found = compare(home, first, second)
    assert found.differences == ()
    assert {(one.kind, one.partition) for one in found.only_second if one.kind != "raw_file"} == {
        (kind, SECOND) for kind in ("scene", "nerf_teacher", "teacher_depth")
    }
    _, said = call(capsys, home, "diff", str(first), str(second), "--json")
    assert json.loads(said)["only_first"] == []


def test_two_variants_are_compared_and_two_kinds_are_not(tmp_path: Path, capsys) -> None:
    home = Home(tmp_path)
    first, second = student(home), student(home, variant="clip")
    found = compare(home, first, second)
    assert found.changed == {"student_checkpoint": 1, "training_set": 1}
    assert (found.only_first, found.only_second) == ((), ())
    assert call(capsys, home, "diff", "depth", "depth") == (0, call(capsys, home, "diff", "depth", "depth")[1])
    assert "no difference" in call(capsys, home, "diff", "depth", "depth")[1]
    with pytest.raises(ValueError, match="different kinds"):
        compare(home, first, home.require("training_set", "depth"))
