import json

import pytest
import torch

from storage.errors import ErrorKind, IntegrityError
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
    )
    save_training_state(tmp_path / "fit.safetensors", state)
    loaded = load_training_state(tmp_path / "fit.safetensors")
    assert (loaded.step, loaded.counters) == (41, {"sampler_step": 40})
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


DESCRIPTION = FieldDescription(
    config=NerfConfig(learning_rate=0.5, field=FieldConfig(dynamic=True)),
    bounds=SceneBounds(centre_m=(1.0, 2.0, 0.0), half_extent_m=(40.0, 30.0, 5.0)),
    num_cameras=2,
    num_frames=5,
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
    for lost in set(part) - {"schema", "metres_per_unit"}:
        with pytest.raises(IntegrityError, match=lost) as caught:
            load_description(changed(lambda part, lost=lost: part.pop(lost)))
        assert caught.value.kind == ErrorKind.SCHEMA_UNKNOWN
        assert caught.value.key.startswith(".".join([str(tmp_path / "changed.json"), *place]))
    if place:  # what stands beside configuration and box is for people
        with pytest.raises(IntegrityError, match="newcomer"):
            load_description(changed(lambda part: part.update(newcomer=1)))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": "distillnerf.driving-field/0"}'])
def test_what_is_no_description_is_refused(tmp_path, text):
    (tmp_path / "field.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"field\.json"):
        load_description(tmp_path / "field.json")
