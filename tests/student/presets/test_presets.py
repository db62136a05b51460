"""Every preset resolves to what is recorded; a change of any number is seen in review.

``--regenerate-golden`` writes the records again.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.config_json import config_from_json
from storage.digests import config_json
from student.config import StudentConfig
from student.presets.students import PRESETS, VARIANTS, student_preset

GOLDEN = Path(__file__).parent.parent.parent / "golden" / "presets"
BASE = "depth_contracted_virtual"


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}".strip(".")).items()}
    return {name: value}


def record(preset: str) -> dict[str, Any]:
    base = config_json(student_preset(preset, BASE))
    variants = {}
    for variant in VARIANTS:
        other = flat(config_json(student_preset(preset, variant)))
        variants[variant] = {key: value for key, value in other.items() if flat(base)[key] != value}
    return {BASE: base, "variants": variants}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_as_recorded(preset: str, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"student-{preset}.json"
    if request.config.getoption("--regenerate-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record(preset), indent=2, sort_keys=True) + "\n")
    assert record(preset) == json.loads(path.read_text())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_preset_survives_json(preset: str, variant: Any) -> None:
    config = student_preset(preset, variant)
    assert config_from_json(StudentConfig, json.loads(json.dumps(config_json(config)))) == config


def test_variants_read_what_their_names_say() -> None:
    for preset in PRESETS:
        kinds = {variant: set(student_preset(preset, variant).data.kinds) for variant in VARIANTS}
        assert "teacher_depth" not in kinds["no_distillation"]
        assert "teacher_depth" in kinds["depth"]
        assert "virtual_views" not in kinds["depth_contracted"]
        assert kinds["depth_contracted_virtual"] - kinds["depth_contracted"] == {"virtual_views"}
        assert kinds["clip"] - kinds["depth_contracted_virtual"] == {"clip_features"}
        assert kinds["clip_dinov2"] - kinds["clip"] == {"dinov2_features"}
        assert kinds["clip"] - kinds["clip_without_field"] == {"teacher_depth", "virtual_views"}
        assert student_preset(preset, "clip_without_field").model == student_preset(preset, "clip").model
        learn_from_fields = {v for v in VARIANTS if student_preset(preset, v).data.reads_field}
        assert set(VARIANTS) - learn_from_fields == {"no_distillation", "clip_without_field"}
        linear, contracted = (student_preset(preset, v).model for v in ("depth", "depth_contracted"))
        assert linear.contraction.inner_ratio == 0.999
        assert contracted.contraction.inner_ratio == 0.8


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="want one of demo"):
        student_preset("gigantic", "depth")


def test_planning_a_run_needs_no_torch() -> None:
    code = "import sys, student.presets.students; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_that_the_depth_grid_does_not_divide_are_refused() -> None:
    run = student_preset("small", "clip")
    with pytest.raises(ValueError, match="127x228, want multiples of stem_stride 2"):
        replace(run, data=replace(run.data, image_height=127))
