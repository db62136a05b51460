"""A saved state is used only if it is, to the bit, what was written for its step."""

import errno
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from storage.errors import ErrorKind, HomeUnavailableError, IntegrityError, OutOfCapacityError
from student.training import state as state_module
from student.training.state import FitProgress, restore_state, save_state

TENSORS, CONTENT, MANIFEST = "state.safetensors", "state.json", "manifest.json"


class Fit:
    """The objects of a fit, some steps into it."""

    def __init__(self, steps: int = 0) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(8, 4)
        self.optimizer = torch.optim.Adam(self.model.parameters(), betas=(0.9, 0.95))
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.progress = FitProgress()
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.full((1, 8), float(self.progress.step))).square().sum().backward()
        self.optimizer.step()
        self.progress.step += 1

    def save(self, folder: Path) -> None:
        save_state(folder, self.progress, self.model, self.optimizer, self.scaler, None)

    def restore(self, folder: Path) -> FitProgress | None:
        found = restore_state(folder, self.model, self.optimizer, self.scaler, None)
        self.progress = found or self.progress
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """States of steps 2 and 4."""
    fit = Fit()
    for _ in range(4):
        fit.step()
        if fit.progress.step % 2 == 0:
            fit.save(tmp_path)
    return tmp_path


def _flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    place = random.Random(seed)
    content[place.randrange(len(content))] ^= 1 << place.randrange(8)
    path.write_bytes(content)


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _forge(state: Path) -> None:
    """Write a manifest that agrees with whatever the files hold."""
    from storage.digests import file_digest

    digests = {name: file_digest(state / name) for name in (TENSORS, CONTENT)}
    (state / MANIFEST).write_text(json.dumps({"step": int(state.name[5:]), "sha256": digests}))


DAMAGE = {
    **{f"bit {i} of tensors": lambda old, new, i=i: _flip(new / TENSORS, i) for i in range(12)},
    **{f"bit {i} of progress": lambda old, new, i=i: _flip(new / CONTENT, i) for i in range(4)},
    "tail of zeros": lambda old, new: (new / TENSORS).write_bytes((new / TENSORS).read_bytes()[:-64] + bytes(64)),
    "progress of another step": lambda old, new: shutil.copy(old / CONTENT, new / CONTENT),
    "tensors of another step": lambda old, new: shutil.copy(old / TENSORS, new / TENSORS),
    "no manifest": lambda old, new: (new / MANIFEST).unlink(),
    "an empty manifest": lambda old, new: (new / MANIFEST).write_text("{}"),
    "a list as manifest": lambda old, new: (new / MANIFEST).write_text("[]"),
    "deep JSON": lambda old, new: (new / MANIFEST).write_text("[" * 1_000_000),
    "no progress": lambda old, new: (new / CONTENT).unlink(),
    "an empty folder": lambda old, new: [path.unlink() for path in new.iterdir()],
    "another step as a whole": lambda old, new: (shutil.rmtree(new), shutil.copytree(old, new)),
    "a missing field, sealed": lambda old, new: (_edit(new / CONTENT, lambda c: c.pop("param_groups")), _forge(new)),
    "an unknown field, sealed": lambda old, new: (
        _edit(new / CONTENT, lambda c: c["progress"].update(zzz=1)),
        _forge(new),
    ),
    "another step, sealed": lambda old, new: (
        _edit(new / CONTENT, lambda c: c["progress"].update(step=1)),
        _forge(new),
    ),
    "another model, sealed": lambda old, new: (save_file({"model.x": torch.zeros(3)}, new / TENSORS), _forge(new)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_is_damaged_the_state_before_takes_its_place_and_that_is_said(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGE[damage](folder / "step-000000002", folder / "step-000000004")
    fit, whole = Fit(), Fit(steps=2)
    assert fit.restore(folder) == whole.progress
    assert "step-000000004 cannot be read" in caplog.text
    for name, value in whole.model.state_dict().items():
        assert torch.equal(fit.model.state_dict()[name], value)
    fit.step()
    whole.step()  # the optimizer too
    assert torch.equal(fit.model.weight, whole.model.weight)


def test_a_sound_state_is_read_without_a_word(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit, whole = Fit(), Fit(steps=4)
    assert fit.restore(folder) == whole.progress
    assert not caplog.text
    assert torch.equal(fit.model.weight, whole.model.weight)
    assert load_file(folder / "step-000000004" / TENSORS)


def test_states_none_of_which_is_whole_are_an_error(folder: Path) -> None:
    for state in folder.iterdir():
        _flip(state / TENSORS, 0)
    with pytest.raises(IntegrityError, match="none of 2 states can be read") as caught:
        Fit().restore(folder)
    assert caught.value.kind is ErrorKind.STORE_CORRUPT


def test_no_state_is_no_error(tmp_path: Path) -> None:
    assert Fit().restore(tmp_path) is None


def test_what_is_no_state_is_left_alone_and_costs_none(folder: Path) -> None:
    (folder / "step-zzz").mkdir()
    (folder / "step-000000006").write_text("a file")
    fit = Fit()
    progress = fit.restore(folder)
    assert progress is not None
    assert progress.step == 4
    for _ in range(2):
        fit.step()
    fit.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000000004", "step-000000006", "step-zzz"]
    again = Fit().restore(folder)
    assert again is not None
    assert again.step == 6


def test_no_state_is_called_damaged_for_want_of_file_descriptors(folder: Path, no_more_files) -> None:
    fit = Fit()
    with no_more_files(), pytest.raises(OutOfCapacityError):
        fit.restore(folder)
    assert fit.restore(folder) == Fit(steps=4).progress


def test_a_disk_that_fails_for_the_last_state_costs_that_state_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sound = state_module.file_digest

    def digest(path: Path) -> str:
        if path.parent.name in failing:
            raise OSError(errno.EIO, "Input/output error")
        return sound(path)

    monkeypatch.setattr(state_module, "file_digest", digest)
    failing = {"step-000000004"}
    assert Fit().restore(folder) == Fit(steps=2).progress
    assert "step-000000004 cannot be read" in caplog.text
    failing.add("step-000000002")
    with pytest.raises(HomeUnavailableError) as caught:  # to start anew would not help
        Fit().restore(folder)
    assert caught.value.kind is ErrorKind.IO_FAILED
