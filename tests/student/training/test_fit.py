"""A fit: it learns, resumes to the bit, names what breaks it, and publishes where everything came from."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from storage.errors import IntegrityError, MissingTargetError, StudentDivergedError
from storage.stores.places import CACHE_VARIABLE
from storage.stores.versioned import Home
from student.config import StudentConfig, ViewsConfig
from student.data.dataset import FrameDataset
from student.data.training_set import load_training_set
from student.inference.checkpoint import from_pretrained
from student.losses.perceptual import MultiScaleDissimilarity
from student.losses.total import student_losses
from student.model.distillnerf import DistillNeRF
from student.training import fit
from student.training.fit import fit_student
from student.training.optimization import WeightAverage, build_optimizer, learning_rate


class Killed(BaseException):
    """Stands for a signal: nothing may catch it."""


def kill_at(step: int) -> Callable[[str, float, Mapping[str, Any]], None]:
    def on_progress(stage: str, share: float, figures: Mapping[str, Any]) -> None:
        if stage == "fit" and figures["step"] == step:
            raise Killed

    return on_progress


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, shared_world: Any) -> Any:
    """An uninterrupted fit, with what it reported."""
    state: dict[str, Any] = {}

    def make(config: StudentConfig) -> Any:
        if not state:
            shared_world.freeze("fit", config)
            calls: list[tuple[str, float, dict[str, Any]]] = []
            done = fit_student(shared_world.home, "fit", config, lambda *call: calls.append(call))  # type: ignore[arg-type]
            state.update(done=done, calls=calls, folder=shared_world.home.open_files(done.version))
        return state

    return make


def test_publishes_weights_config_bill_and_card(fitted: Any, student_config: StudentConfig, shared_world: Any) -> None:
    state = fitted(student_config)
    folder: Path = state["folder"]
    model, config = from_pretrained(folder)
    assert config == student_config
    assert not model.training
    bill = json.loads((folder / "bill_of_materials.json").read_text())
    assert sorted(bill["samples"]) == [f"yard.a/{frame:06d}" for frame in range(4)]
    assert set(bill["samples"]["yard.a/000002"]) == {f"{kind}/yard.a" for kind in student_config.data.kinds}
    for name, recorded in bill["stores"].items():
        version = shared_world.home.latest(*name.split("/"))
        assert (recorded["digest"], recorded["snapshot_id"]) == (version.digest, version.snapshot_id)
    card = (folder / "README.md").read_text()
    assert "- CC0-1.0" in card
    assert "teacher_depth" in card
    history = json.loads((folder / "history.json").read_text())
    assert [entry["step"] for entry in history["history"]] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in history["validations"]] == [4, 6]
    events = EventAccumulator(str(next((shared_world.home.root / "logs" / "student" / "fit").iterdir())))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/rgb")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("validation/psnr")] == [4, 6]
    pictures = events.Images("validation/yard.b/000000")
    # Image, rendered image and depth, one below the other; three cameras side by side.
    assert [(picture.step, picture.height, picture.width) for picture in pictures] == [(4, 96, 144), (6, 96, 144)]


def test_reports_progress_metrics_and_a_gate(fitted: Any, student_config: StudentConfig) -> None:
    state = fitted(student_config)
    fits = [(share, figures) for stage, share, figures in state["calls"] if stage == "fit"]
    assert [figures["step"] for _, figures in fits] == [1, 2, 3, 4, 5, 6]
    assert fits[-1][0] == 1.0
    assert fits[2][1]["eta_s"] > 0
    assert fits[2][1]["loss"] == pytest.approx(fits[2][1]["total"])
    metrics = state["done"].metrics
    assert metrics["steps"] == metrics["samples"] == 6
    assert metrics["validation"]["psnr"] > 0
    assert set(metrics["quality"]["checks"]) == {"psnr", "depth_abs_rel"}


def test_a_second_fit_is_a_look_up(fitted: Any, student_config: StudentConfig, shared_world: Any) -> None:
    state = fitted(student_config)
    # How a run is watched is no part of it.
    runtime = replace(student_config.fit.runtime, log_every=3)
    config = replace(student_config, fit=replace(student_config.fit, runtime=runtime))
    again = fit_student(shared_world.home, "fit", config, kill_at(1))
    assert again.reused
    assert again.version == state["done"].version


@pytest.mark.parametrize("step", [1, 3, 5])
def test_killed_and_resumed_ends_with_the_same_bits(
    fitted: Any, student_config: StudentConfig, shared_world: Any, tmp_path: Path, step: int
) -> None:
    whole: Path = fitted(student_config)["folder"]
    home = type(shared_world.home)(tmp_path / "home")
    shutil.copytree(shared_world.home.root / "stores", home.root / "stores")
    with pytest.raises(Killed):
        fit_student(home, "fit", student_config, kill_at(step))
    assert home.latest("student_checkpoint", "fit") is None
    work = home.work_folder("student_checkpoint", "fit")
    assert len(list(work.rglob("step-*"))) == step // 2
    torch.rand(17)  # whatever else happened in the meantime
    resumed = fit_student(home, "fit", student_config)
    folder = home.open_files(resumed.version)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert resumed.version.digest == fitted(student_config)["done"].version.digest
    entries = [json.loads((path / "history.json").read_text())["history"] for path in (folder, whole)]
    assert [e["total"] for e in entries[0]] == [e["total"] for e in entries[1]]
    assert not list(work.iterdir())


def test_another_machine_goes_on_with_a_fit_of_a_home_in_a_bucket(
    fitted: Any,
    student_config: StudentConfig,
    shared_world: Any,
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole: Path = fitted(student_config)["folder"]
    stores = shared_world.home.root / "stores"
    for path in stores.rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), f"home/stores/{path.relative_to(stores)}")
    monkeypatch.setattr(fit, "_SHARE_EVERY_S", 0.0)
    with pytest.raises(Killed):
        fit_student(Home(f"s3://{bucket.name}/home"), "fit", student_config, kill_at(5))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "of another machine"))
    home = Home(f"s3://{bucket.name}/home")
    with caplog.at_level("INFO"):
        resumed = fit_student(home, "fit", student_config)
    assert "going on from step 4" in caplog.text
    folder = home.open_files(resumed.version)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not home.objects.below("work").folders()


@pytest.mark.parametrize("damage", ["state.safetensors", "state.json"])
def test_a_damaged_state_costs_the_steps_since_the_one_before(
    fitted: Any,
    student_config: StudentConfig,
    shared_world: Any,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole: Path = fitted(student_config)["folder"]
    home = type(shared_world.home)(tmp_path / "home")
    shutil.copytree(shared_world.home.root / "stores", home.root / "stores")
    with pytest.raises(Killed):
        fit_student(home, "fit", student_config, kill_at(5))
    states = sorted(home.work_folder("student_checkpoint", "fit").rglob("step-*"))
    damaged = states[-1] / damage
    damaged.write_bytes(damaged.read_bytes()[:100])
    resumed = fit_student(home, "fit", student_config)
    assert f"{states[-1].name} cannot be read" in caplog.text
    folder = home.open_files(resumed.version)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_states_none_of_which_can_be_read_are_named(
    fitted: Any, student_config: StudentConfig, shared_world: Any, tmp_path: Path
) -> None:
    fitted(student_config)
    home = type(shared_world.home)(tmp_path / "home")
    shutil.copytree(shared_world.home.root / "stores", home.root / "stores")
    with pytest.raises(Killed):
        fit_student(home, "fit", student_config, kill_at(5))
    for state in home.work_folder("student_checkpoint", "fit").rglob("state.json"):
        state.unlink()
    with pytest.raises(IntegrityError, match="none of 2 states can be read"):
        fit_student(home, "fit", student_config)


@pytest.mark.nightly  # the default suite has six steps, killed at three of them
def test_a_hundred_steps_after_a_kill_are_the_same_bits(
    student_config: StudentConfig, shared_world: Any, tmp_path: Path
) -> None:
    fit = replace(student_config.fit, max_steps=105, validate_every=1000, max_validation_samples=0)
    views = ViewsConfig(same_frame=1, neighbour=0, virtual=0)
    config = replace(
        student_config,
        data=replace(student_config.data, views=views),
        fit=replace(fit, runtime=replace(fit.runtime, log_every=5, save_every=5, trackers=())),
    )
    shared_world.freeze("long", config, validation_scenes=())
    weights = []
    for name, is_killed in (("whole", False), ("killed", True)):
        home = type(shared_world.home)(tmp_path / name)
        shutil.copytree(shared_world.home.root / "stores", home.root / "stores")
        if is_killed:
            with pytest.raises(Killed):
                fit_student(home, "long", config, kill_at(10))  # the last state is that of step 5
        done = fit_student(home, "long", config)
        weights.append((home.open_files(done.version) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_another_training_set_makes_another_checkpoint(
    fitted: Any, student_config: StudentConfig, shared_world: Any
) -> None:
    first = fitted(student_config)["done"].version
    shared_world.freeze("fit-other", student_config, validation_scenes=(), held_out_stride=4)
    config = replace(student_config, fit=replace(student_config.fit, max_steps=1))
    config = replace(
        config,
        data=replace(config.data, teacher_depth=False, views=replace(config.data.views, virtual=0)),
        losses=replace(config.losses, teacher_depth=0.0),
    )
    other = fit_student(shared_world.home, "other", config, training_set="fit-other")
    assert other.version.digest != first.digest
    assert shared_world.home.provenance(other.version).inputs[0].partition == "fit-other"
    # The set holds more than this run reads; what it did not read is no material of it.
    folder = shared_world.home.open_files(other.version)
    bill = json.loads((folder / "bill_of_materials.json").read_text())
    assert {name.partition("/")[0] for name in bill["stores"]} == set(config.data.kinds)
    assert "teacher_depth" not in (folder / "README.md").read_text()


def test_a_fit_without_its_training_set_is_refused(shared_world: Any, student_config: StudentConfig) -> None:
    with pytest.raises(MissingTargetError) as caught:
        fit_student(shared_world.home, "never-frozen", student_config)
    assert caught.value.key == "training_set/never-frozen"


@pytest.mark.usefixtures("unsound_targets_are_frozen")
def test_a_loss_that_is_not_finite_names_the_sample(
    make_world: Callable[[], Any], student_config: StudentConfig
) -> None:
    world = make_world()
    features = np.full((4, 3, 2, 3, 4), np.inf, np.float16)
    world.publish("clip_features", "yard.a", {"features": features}, code="2")
    world.freeze("broken", student_config, validation_scenes=())
    with pytest.raises(StudentDivergedError) as caught:
        fit_student(world.home, "broken", student_config)
    assert caught.value.key.startswith("yard.a/00000")
    assert "feature_clip" in caught.value.message
    assert world.home.latest("student_checkpoint", "broken") is None


def test_time_ends_a_fit(shared_world: Any, student_config: StudentConfig) -> None:
    shared_world.freeze("hurry", student_config, validation_scenes=())
    config = replace(student_config, fit=replace(student_config.fit, max_steps=10_000, max_seconds=0.5))
    done = fit_student(shared_world.home, "hurry", config)
    assert done.metrics["stopped_by"] == "seconds"
    assert 1 <= done.metrics["steps"] < 100
    assert "quality" not in done.metrics  # nothing was held out, so nothing was judged


def test_overfits_one_sample(shared_world: Any, student_config: StudentConfig) -> None:
    """The whole chain from stores to gradients must be able to learn one frame."""
    views = replace(student_config.data.views, same_frame=3, neighbour=0, virtual=0)
    config = replace(student_config, data=replace(student_config.data, views=views))
    shared_world.freeze("one", config)
    data = FrameDataset(shared_world.home, load_training_set(shared_world.home, "one"), "train", config.data)
    batch = data[0]
    torch.manual_seed(1)  # of four seeds, colour is left with 0.42 to 0.71 of its error after so few steps
    model = DistillNeRF(config.model).train()
    optimizer = build_optimizer(model, replace(config.fit.optimizer, learning_rate=5e-3))
    totals, images = [], []
    for _ in range(70):
        optimizer.zero_grad()
        losses = student_losses(
            model(batch.inputs, batch.cameras), batch, config.losses, perceptual=MultiScaleDissimilarity()
        )
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(losses.total.item())
        images.append(losses.terms["rgb"].item())
    assert np.mean(totals[-5:]) < 0.2 * totals[0]
    assert np.mean(images[-5:]) < 0.6 * images[0]
    model.eval()
    with torch.no_grad():
        output = model(batch.inputs, batch.cameras)
    depth, teacher = output.termination_depth, batch.view_targets.teacher_depth
    is_scored = torch.isfinite(depth) & torch.isfinite(teacher)
    assert is_scored.float().mean() > 0.6
    error = ((depth - teacher).abs() / teacher)[is_scored].mean()
    assert error < 0.08


# --- checkpoints ---------------------------------------------------------------------------------------------------


def copy_of(fitted: Any, config: StudentConfig, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted(config)["folder"], tmp_path / "copy"))


def test_weights_that_do_not_fit_are_refused(fitted: Any, student_config: StudentConfig, tmp_path: Path) -> None:
    folder = copy_of(fitted, student_config, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(3, 1)}, folder / "model.safetensors")
    with pytest.raises(IntegrityError, match="misshapen"):
        from_pretrained(folder)
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")
    with pytest.raises(IntegrityError, match="missing"):
        from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(IntegrityError, match="cannot be read"):
        from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingTargetError):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["student"]["model"].pop("sky"), r"model\.sky: is missing"),
        (lambda c: c["student"]["fit"].update(luck=1), r"fit\.luck: is unknown"),
        (lambda c: c["student"]["fit"].update(max_steps="many"), "max_steps"),
        (lambda c: c["student"]["fit"].update(max_steps=0), "at least 1"),
        (lambda c: c.update(format="something/2"), "format"),
        (lambda c: c.pop("student"), r"config\.json\.student: is None"),
    ],
)
def test_a_config_is_read_strictly(
    fitted: Any, student_config: StudentConfig, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    folder = copy_of(fitted, student_config, tmp_path)
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match=message):
        from_pretrained(folder)


# --- optimisation --------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls(student_config: StudentConfig) -> None:
    config = replace(student_config.fit.optimizer, learning_rate=1.0, warmup_steps=3, final_share=0.1)
    assert [learning_rate(config, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.55)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.1)
    step = replace(config, schedule="step")
    assert [learning_rate(step, 100, share) for share in (0.5, 0.7, 0.95)] == [1.0, 0.1, 0.01]
    assert learning_rate(replace(config, schedule="constant"), 100, 0.99) == 1.0


def test_average_follows_and_swaps_back() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.5)
    torch.nn.init.ones_(model.weight)
    average.update(model)  # the first update keeps 2 of 11 parts
    average.swap(model)
    assert model.weight.item() == pytest.approx(9 / 11)
    average.swap(model)
    assert model.weight.item() == 1.0
