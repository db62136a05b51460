import json
import resource

import pytest
import torch
from safetensors import SafetensorError

from storage.errors import ErrorKind, IntegrityError, OutOfCapacityError
from teachers.nerf.checkpoint import (
    FieldDescription,
    TrainingState,
    load_description,
    load_tensors,
    load_training_state,
    save_description,
    save_tensors,
    save_training_state,
)
from teachers.nerf.config import FieldConfig, NerfConfig
from teachers.nerf.scene_rays import SceneBounds


def test_tensors_and_description_come_back(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.rand(4).to(torch.float16)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"schema": "s/1", "n": 3})
    loaded, description = load_tensors(tmp_path / "x.safetensors")
    assert description == {"schema": "s/1", "n": 3}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_training_state_comes_back(tmp_path):
    parameter = torch.nn.Parameter(torch.rand(5))
    optimizer = torch.optim.Adam([parameter], fused=True)
    parameter.sum().backward()
    optimizer.step()
    state = TrainingState(
        step=41,
        model={"grid.table": parameter.detach()},
        optimizers={"grids": optimizer.state_dict()["state"]},
        random_states={"torch": torch.get_rng_state()},
        counters={"sampler_step": 40},
        history=[{"step": 41.0, "psnr": 17.5}],
        judgement={"held_out": {"psnr": 18.5, "lidar_abs_rel": None}, "before": {}},
    )
    save_training_state(tmp_path / "fit.safetensors", state)
    loaded = load_training_state(tmp_path / "fit.safetensors")
    assert (loaded.step, loaded.counters) == (41, {"sampler_step": 40})
    assert loaded.history == ({"step": 41.0, "psnr": 17.5},)
    assert loaded.judgement == state.judgement
    assert torch.equal(loaded.random_states["torch"], torch.get_rng_state())
    for name, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(loaded.optimizers["grids"][0][name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.safetensors"], "nothing is left aside"


def test_a_cut_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.rand(100)}, {})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(IntegrityError, match="not a checkpoint"):
        load_tensors(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(IntegrityError, match="not a checkpoint"):
        load_tensors(path)


def _state(step):
    return TrainingState(
        step=step,
        model={"grid": torch.full((64,), float(step))},
        optimizers={"grids": {0: {"exp_avg": torch.full((64,), 0.5), "step": torch.tensor(float(step))}}},
        random_states={"torch": torch.get_rng_state()},
        counters={"sampler_step": step},
    )


def test_no_flipped_bit_of_a_state_goes_unnoticed_and_the_state_before_takes_its_place(tmp_path, caplog):
    path = tmp_path / "fit.safetensors"
    assert load_training_state(path) is None
    save_training_state(path, _state(1))
    save_training_state(path, _state(2))
    assert load_training_state(path).step == 2
    content = path.read_bytes()
    random = torch.Generator().manual_seed(0)
    places = [8, 40, *torch.randint(8, len(content), (60,), generator=random).tolist(), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        caplog.clear()
        found = load_training_state(path)
        if found.step == 2:  # a bit of the header that means nothing: between names, or the case of an escape
            assert all(torch.equal(found.model[n], t) for n, t in _state(2).model.items())
        else:
            assert found.step == 1
            assert "state cannot be read" in caplog.text
    path.unlink()
    assert load_training_state(path).step == 1, "killed between two renames"


def test_states_none_of_which_is_whole_are_an_error(tmp_path):
    path = tmp_path / "fit.safetensors"
    for step in (1, 2):
        save_training_state(path, _state(step))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    with pytest.raises(IntegrityError, match=r"fit\.safetensors: its content has SHA-256"):
        load_training_state(path)


def test_a_full_disk_is_typed_and_leaves_the_last_good_state(tmp_path):
    """A limit on the size of files stands in for the disk: safetensors meets the system's own error."""
    path = tmp_path / "fit.safetensors"
    save_tensors(path, {"a": torch.arange(10)}, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OutOfCapacityError, match="no room for 4000000 bytes") as caught:
            save_tensors(path, {"a": torch.rand(1_000_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.key == str(path)
    assert load_tensors(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["fit.safetensors"], "nothing is left aside"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("(os error 28)")])
def test_no_space_left_is_a_full_disk(tmp_path, monkeypatch, error):
    def full(_tensors, path, **_):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("teachers.nerf.checkpoint.save_file", full)
    with pytest.raises(OutOfCapacityError, match="free some"):
        save_tensors(tmp_path / "fit.safetensors", {"a": torch.rand(3)}, {})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("teachers.nerf.checkpoint.save_file", lambda *_, **__: (_ for _ in ()).throw(OSError(13, "no")))
    with pytest.raises(OSError, match="no"):
        save_tensors(tmp_path / "fit.safetensors", {"a": torch.rand(3)}, {})


DESCRIPTION = FieldDescription(
    config=NerfConfig(learning_rate=0.5, field=FieldConfig(dynamic=True)),
    bounds=SceneBounds(centre_m=(1.0, 2.0, 0.0), half_extent_m=(40.0, 30.0, 5.0)),
    num_cameras=2,
    num_frames=5,
    fitted_frames=(0, 1, 3, 4),
    pose_corrections=(tuple(float(i) for i in range(16)),),
)


def test_a_description_comes_back(tmp_path):
    save_description(tmp_path / "field.json", DESCRIPTION, {"seed": 3})
    assert load_description(tmp_path / "field.json") == DESCRIPTION


@pytest.mark.parametrize("place", [(), ("config",), ("config", "field"), ("config", "losses"), ("bounds",)])
def test_a_description_that_lacks_a_field_or_knows_another_is_refused(tmp_path, place):
    """Though each has a default: today's may differ from the one that the field was fitted with."""
    path = tmp_path / "field.json"
    save_description(path, DESCRIPTION, {})

    def changed(change):
        content = json.loads(path.read_text())
        part = content
        for name in place:
            part = part[name]
        change(part)
        (tmp_path / "changed.json").write_text(json.dumps(content))
        return tmp_path / "changed.json"

    part = json.loads(path.read_text())
    for name in place:
        part = part[name]
    for lost in set(part) - {"schema", "metres_per_unit", "betas", "grid_gradient"}:
        with pytest.raises(IntegrityError, match=lost) as caught:
            load_description(changed(lambda part, lost=lost: part.pop(lost)))
        assert caught.value.kind == ErrorKind.SCHEMA_UNKNOWN
        assert caught.value.key.startswith(".".join([str(tmp_path / "changed.json"), *place]))
    if place:  # what stands beside configuration and box is for people
        with pytest.raises(IntegrityError, match="newcomer"):
            load_description(changed(lambda part: part.update(newcomer=1)))


def test_a_field_of_before_was_fitted_as_fields_were_then(tmp_path):
    path = tmp_path / "field.json"
    save_description(path, DESCRIPTION, {})
    content = json.loads(path.read_text())
    del content["config"]["betas"], content["config"]["field"]["grid_gradient"]
    path.write_text(json.dumps(content))
    config = load_description(path).config
    assert (config.betas, config.field.grid_gradient) == ((0.9, 0.99), "stochastic")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": "distillnerf.driving-field/0"}'])
def test_what_is_no_description_is_refused(tmp_path, text):
    (tmp_path / "field.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"field\.json"):
        load_description(tmp_path / "field.json")


def test_a_field_is_not_called_damaged_for_want_of_file_descriptors(tmp_path, no_more_files):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.zeros(2)}, {})
    with no_more_files(), pytest.raises(OutOfCapacityError):
        load_tensors(path)
    assert load_tensors(path)
