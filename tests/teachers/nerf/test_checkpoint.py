import pytest
import torch

from storage.errors import IntegrityError
from teachers.nerf.checkpoint import TrainingState, load_tensors, load_training_state, save_tensors, save_training_state


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
