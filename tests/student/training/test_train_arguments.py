"""What ``python -m student.training.train`` makes of its arguments."""

import json
from pathlib import Path

import pytest

from storage.config_json import config_from_json
from student.config import StudentConfig
from student.presets.published import published_student
from student.presets.students import student_preset
from student.training import train
from student.training.train import Arguments

HOME = Path("home")


def test_flags_change_how_a_preset_is_run_and_nothing_else() -> None:
    run = Arguments(
        home=HOME,
        variant="clip",
        preset="small",
        num_workers=7,
        trackers=("mlflow",),
        device="cpu",
        accumulation_steps=2,
    ).run()
    runtime = run.fit.runtime
    assert (runtime.num_workers, runtime.trackers, runtime.device, runtime.accumulation_steps) == (
        7,
        ("mlflow",),
        "cpu",
        2,
    )
    assert run.determining() == student_preset("small", "clip").determining()
    untouched = Arguments(home=HOME, variant="clip", preset="small").run()
    assert untouched == student_preset("small", "clip")
    assert untouched.fit.runtime.num_workers > 0  # an accelerator would wait for a single process
    assert not Arguments(home=HOME, variant="clip", num_workers=0).run().fit.runtime.num_workers


def test_a_published_run_follows_from_size_and_variant(tmp_path: Path) -> None:
    size = "nuscenes-224x400"
    assert Arguments(home=HOME, variant="depth", published=size).run() == published_student(size, space="linear")
    assert Arguments(home=HOME, variant="dinov2", published=size).run() == published_student(size, output="dinov2")
    with pytest.raises(ValueError, match="want one of depth, depth_contracted_virtual, clip, dinov2"):
        Arguments(home=HOME, variant="no_distillation", published=size).run()
    with pytest.raises(ValueError, match="give one"):
        Arguments(home=HOME, variant="depth", published=size, config=tmp_path / "run.json").run()


def test_lpips_takes_the_place_of_structural_dissimilarity() -> None:
    run = Arguments(home=HOME, variant="clip", lpips_weights=Path("lpips.safetensors")).run()
    assert run.losses.lpips_weights == Path("lpips.safetensors")


def test_a_run_can_be_written_changed_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    monkeypatch.setattr(
        "sys.argv", ["train", "home", "clip", "--published", "waymo-144x216", "--write-config", str(path)]
    )
    train.main()
    written = json.loads(path.read_text())
    assert config_from_json(StudentConfig, written, str(path)) == published_student("waymo-144x216", output="clip")
    written["fit"]["max_steps"] = 12
    path.write_text(json.dumps(written))
    assert Arguments(home=HOME, variant="clip", config=path).run().fit.max_steps == 12
