"""What ``python -m student.training.train`` makes of its arguments."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.stores.places import STORE_URL_VARIABLE
from storage.stores.versioned import Home
from student.config import StudentConfig
from student.presets.published import published_student
from student.presets.students import student_preset
from student.training import train
from student.training.train import Arguments

HOME = "home"


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


def test_the_store_url_is_the_environments_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE_URL_VARIABLE, raising=False)
    assert Arguments(home=HOME, variant="clip").store_url is None
    monkeypatch.setenv(STORE_URL_VARIABLE, "s3://stores/all")
    assert Arguments(home=HOME, variant="clip").store_url == "s3://stores/all"
    assert Arguments(home=HOME, variant="clip", store_url="s3://stores/mine").store_url == "s3://stores/mine"


def test_a_student_is_fitted_from_stores_in_a_bucket(
    student_config: StudentConfig, shared_world: Any, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(student_config, fit=replace(student_config.fit, max_steps=2, validate_every=2))
    shared_world.freeze("in-a-bucket", run)
    here = shared_world.home.root
    for path in (here / "stores").rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), f"all/{path.relative_to(here / 'stores')}")
    home, file = tmp_path / "home", tmp_path / "run.json"
    file.write_text(json.dumps(config_json(run)))
    flags = ("--config", str(file), "--training-set", "in-a-bucket", "--store-url", f"s3://{bucket.name}/all")
    monkeypatch.setattr("sys.argv", ["train", str(home), "clip", *flags])
    train.main()
    assert Home(home).require("student_checkpoint", "clip")
    assert not (home / "stores").exists()
