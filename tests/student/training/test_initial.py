"""A fit that starts from a checkpoint: what it takes, what starts afresh, and what does not fit."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from storage.errors import IntegrityError, MissingTargetError
from storage.scenes.store import SceneReader
from student.config import SHIPPED, OptimizerConfig, StudentConfig, Variant, ViewsConfig
from student.inference.checkpoint import save_pretrained
from student.inference.feature_bases import load_feature_bases, same_basis, save_feature_bases
from student.inference.open_vocabulary import StoredFeatureBasis
from student.model.config import ModelConfig
from student.model.distillnerf import DistillNeRF
from student.presets.students import VARIANTS, student_preset
from student.training.fit import fit_student
from student.training.initial import initial_folder, take_weights
from teachers.image.feature_basis import FeatureBasis
from teachers.image.weights import DEMO_WEIGHTS


def basis(seed: int = 0) -> StoredFeatureBasis:
    random = np.random.default_rng(seed)
    return StoredFeatureBasis(
        mean=random.random(6, np.float32),
        components=random.random((6, 4), np.float32),
        minimum=-random.random(4, np.float32),
        maximum=random.random(4, np.float32) + 1,
    )


def write_checkpoint(folder: Path, config: StudentConfig, **bases: StoredFeatureBasis) -> DistillNeRF:
    torch.manual_seed(7)
    model = DistillNeRF(config.model)
    save_pretrained(folder, model, config, variant="clip")
    save_feature_bases(folder, bases)
    return model


def other_model(config: StudentConfig, **changes: Any) -> DistillNeRF:
    torch.manual_seed(8)
    model: ModelConfig = replace(config.model, **changes)
    return DistillNeRF(model)


def test_every_weight_is_taken(student_config: StudentConfig, tmp_path: Path) -> None:
    wanted = write_checkpoint(tmp_path, student_config, clip=basis()).state_dict()
    model = other_model(student_config)
    report = take_weights(model, tmp_path, {"clip": basis()})
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    assert report.taken == sum(p.numel() for p in model.parameters())
    assert (report.fresh, report.fresh_heads, report.fresh_parts, report.dropped_heads) == (0, (), (), ())


@pytest.mark.parametrize("known", [None, basis(1)], ids=["no basis", "another basis"])
def test_a_head_of_another_basis_starts_afresh(
    student_config: StudentConfig, tmp_path: Path, known: StoredFeatureBasis | None
) -> None:
    wanted = write_checkpoint(tmp_path, student_config, **({} if known is None else {"clip": known})).state_dict()
    model = other_model(student_config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = take_weights(model, tmp_path, {"clip": basis()})
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("feature_heads.") else wanted[name]), name
    assert report.fresh_heads == ("clip",)
    assert report.fresh == sum(p.numel() for p in model.feature_heads.parameters())


def test_a_head_of_another_width_starts_afresh(student_config: StudentConfig, tmp_path: Path) -> None:
    wanted = write_checkpoint(tmp_path, student_config, clip=basis()).state_dict()
    (narrow,) = student_config.model.feature_heads
    wide = replace(narrow, hidden_width=2 * narrow.hidden_width)
    model = other_model(student_config, feature_heads=(wide,))
    report = take_weights(model, tmp_path, {"clip": basis()})
    assert report.fresh_heads == ("clip",)
    assert report.fresh == sum(p.numel() for p in model.feature_heads.parameters())
    for name, value in model.state_dict().items():
        assert name.startswith("feature_heads.") or torch.equal(value, wanted[name]), name


def test_a_head_that_is_not_wanted_is_dropped(student_config: StudentConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, student_config, clip=basis())
    report = take_weights(other_model(student_config, feature_heads=()), tmp_path)
    assert (report.fresh, report.dropped_heads) == (0, ("clip",))


def test_another_width_is_refused_by_name(student_config: StudentConfig, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, student_config, clip=basis())
    model = other_model(student_config, sky=replace(student_config.model.sky, hidden_width=20))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(IntegrityError, match=r"tensors do not fit the model: sky\..* for .*20"):
        take_weights(model, tmp_path, {"clip": basis()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_that_never_read_rays_starts_as_it_was(student_config: StudentConfig, tmp_path: Path) -> None:
    coarse = student_config.model.coarse_depth
    without = replace(student_config.model, coarse_depth=replace(coarse, ray_width=0))
    old = write_checkpoint(tmp_path, replace(student_config, model=without), clip=basis())
    model = other_model(student_config)
    report = take_weights(model, tmp_path, {"clip": basis()})
    rays = model.coarse_depth.rays
    assert rays is not None
    assert (report.fresh_parts, report.fresh) == (("coarse_depth.rays",), sum(p.numel() for p in rays.parameters()))
    images = torch.rand(2, 3, 32, 48)
    features = torch.randn(2, coarse.depth_feature_channels, 4, 6) if coarse.depth_feature_channels else None
    directions = torch.nn.functional.normalize(torch.randn(2, 16, 24, 3), dim=-1)
    rays_of_both = (torch.rand(2, 3), directions)
    with torch.inference_mode():
        assert torch.equal(
            old.eval().coarse_depth(images, features, *rays_of_both).termination_depth,
            model.eval().coarse_depth(images, features, *rays_of_both).termination_depth,
        )


def test_no_folder_is_named(student_config: StudentConfig, shared_world: Any, tmp_path: Path) -> None:
    shared_world.freeze("initial-none", student_config)
    config = replace(student_config, fit=replace(student_config.fit, initial=str(tmp_path / "nowhere")))
    with pytest.raises(MissingTargetError, match="nowhere"):
        fit_student(shared_world.home, "initial-none", config)


def test_damaged_bases_are_named(tmp_path: Path) -> None:
    save_feature_bases(tmp_path, {"clip": basis()})
    assert same_basis(load_feature_bases(tmp_path)["clip"], basis())
    path = tmp_path / "feature_bases.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match="feature_bases"):
        load_feature_bases(tmp_path)


class TestFit:
    """Fits of a shared world, from a checkpoint."""

    def test_it_starts_where_the_checkpoint_is_and_says_so(
        self, student_config: StudentConfig, shared_world: Any, tmp_path: Path
    ) -> None:
        home = shared_world.home
        shared_world.freeze("initial", student_config)
        still = replace(student_config.fit.optimizer, learning_rate=1e-12)
        wanted = write_checkpoint(tmp_path / "a", student_config).state_dict()
        fit = replace(student_config.fit, optimizer=still, initial=str(tmp_path / "a"))
        first = fit_student(home, "initial", replace(student_config, fit=fit))
        found = load_file(home.open_files(first.version) / "model.safetensors")
        for name, value in wanted.items():
            if not name.startswith("feature_heads."):
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
        assert first.metrics["initial"]["fresh_heads"] == ["clip"]  # this world's features have no basis
        assert "initial/model.safetensors" in home.provenance(first.version).weights_digests
        # Where the checkpoint lies does not matter, what it holds does.
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        moved = replace(fit, initial=str(tmp_path / "b"))
        assert fit_student(home, "initial", replace(student_config, fit=moved)).reused

    def test_a_checkpoint_of_the_same_home_is_an_input(self, student_config: StudentConfig, shared_world: Any) -> None:
        home = shared_world.home
        shared_world.freeze("initial", student_config)
        short = replace(student_config, fit=replace(student_config.fit, max_steps=1))
        first = fit_student(home, "initial", short).version
        fit = replace(short.fit, initial=str(home.open_files(first)))
        second = fit_student(home, "initial", replace(short, fit=fit)).version
        assert second.digest != first.digest
        assert first.as_input in home.provenance(second).inputs

    @pytest.mark.parametrize("has_lidar", [False, True])
    def test_depth_that_nothing_tells_stays_what_it_was(
        self,
        student_config: StudentConfig,
        shared_world: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        has_lidar: bool,
    ) -> None:
        """Images of one drive pull depth anywhere that explains them: without LiDAR and field it is not learned."""
        if not has_lidar:
            monkeypatch.setattr(SceneReader, "num_lidar_points", lambda *_: 0)
        data = replace(student_config.data, teacher_depth=False, views=ViewsConfig(same_frame=2, neighbour=1))
        fit = replace(student_config.fit, initial=str(tmp_path), max_steps=2, optimizer=OptimizerConfig())
        config = replace(student_config, data=data, fit=fit)
        name = f"untold-{has_lidar}"
        shared_world.freeze(name, config)
        before = write_checkpoint(tmp_path, student_config).state_dict()
        made = fit_student(shared_world.home, name, config)
        after = load_file(shared_world.home.open_files(made.version) / "model.safetensors")
        changed = {part.partition(".")[0] for part, value in before.items() if not torch.equal(after[part], value)}
        assert ("coarse_depth" in changed) == has_lidar
        assert {"fine_depth", "voxel_network", "feature_heads"} <= changed
        assert made.metrics["keeps_depth"] != has_lidar
        card = (shared_world.home.open_files(made.version) / "README.md").read_text()
        assert ("Nothing told depth" in card) != has_lidar


class TestShipped:
    """The student that comes with the package, which ``demo`` and ``tiny`` start from."""

    @pytest.mark.parametrize("preset", ["demo", "tiny"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_it_fits_every_run_that_starts_from_it(self, preset: str, variant: Variant) -> None:
        run = student_preset(preset, variant)
        if run.fit.initial is None:
            assert run.model.contraction.inner_ratio > 0.9  # linear space: its bins mean other distances
            return
        folder = initial_folder(run.fit.initial)
        report = take_weights(DistillNeRF(run.model), folder, load_feature_bases(folder))
        assert set(report.fresh_heads) == set(run.data.feature_sources) - {"clip"}
        assert report.taken > 3_000_000

    def test_its_words_are_those_of_the_shipped_clip(self) -> None:
        basis = FeatureBasis.load(DEMO_WEIGHTS / "clip", 96)
        known = load_feature_bases(initial_folder(SHIPPED))["clip"]
        assert all(np.array_equal(getattr(known, f.name), getattr(basis, f.name)) for f in fields(known))

    def test_it_is_small_and_says_what_it_is(self) -> None:
        folder = initial_folder(SHIPPED)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlicense: apache-2.0")
        assert "exact world" in card
        bill = json.loads((folder / "bill_of_materials.json").read_text())
        assert {sample.partition(".")[0] for sample in bill["held_out_samples"]} == {"pretrain-held-out"}
        assert not {s.partition("/")[0] for s in bill["samples"]} & {
            s.partition("/")[0] for s in bill["held_out_samples"]
        }
