"""Checks that need nerfstudio: run by its own interpreter, on the wall scene, with the home as argument.

Prints one JSON object as the last line: what ``test_nerfstudio_environment`` asserts on.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from teachers.nerf.torchvision_shim import declare_missing_operators

declare_missing_operators()

from nerfstudio.plugins.registry import discover_methods  # noqa: E402
from nerfstudio.utils.external import TCNN_EXISTS  # noqa: E402

from storage.errors import EnvironmentMissingError, IntegrityError, TeacherDivergedError  # noqa: E402
from storage.geometry.rays import camera_rays  # noqa: E402
from storage.scenes.store import SceneReader  # noqa: E402
from storage.stores.versioned import Home  # noqa: E402
from teachers.nerf import trainer as trainer_module  # noqa: E402
from teachers.nerf.checkpoint import load_tensors, save_tensors  # noqa: E402
from teachers.nerf.config import FieldConfig, NerfConfig, SamplingConfig  # noqa: E402
from teachers.nerf.dataparser import scene_cameras  # noqa: E402
from teachers.nerf.fit import fit_scene  # noqa: E402
from teachers.nerf.nerfstudio_grid import settle_implementation  # noqa: E402
from teachers.nerf.scene_rays import measure_bounds  # noqa: E402
from teachers.nerf.teacher import NerfTeacher  # noqa: E402

SCENE_KEY = "test.wall"
TINY = NerfConfig(
    image_height=18,
    image_width=32,
    num_steps=24,
    pixel_rays=256,
    lidar_pixel_rays=64,
    lidar_rays=64,
    field=FieldConfig(num_levels=3, log2_table_size=12, dynamic=True),
    sampling=SamplingConfig(num_proposal_samples=16, num_field_samples=8, proposal_log2_table_size=10),
)


def check_rays(home: Home) -> float:
    """Largest difference between our rays and those of nerfstudio's cameras, over all cameras of a frame."""
    scene = SceneReader.open(home, SCENE_KEY)
    bounds = measure_bounds(scene, (0, 4))
    cameras = scene_cameras(scene, (3,), bounds, (18, 32))
    worst = 0.0
    for camera in range(scene.num_cameras):
        theirs = cameras.generate_rays(camera_indices=camera)
        origins, directions = camera_rays(
            scene.intrinsics(camera, size=(18, 32)), scene.camera_to_world(3, camera), height=18, width=32
        )
        ours = torch.tensor(bounds.to_scene_units(origins)), torch.tensor(directions)
        for a, b in zip((theirs.origins, theirs.directions), ours, strict=True):
            worst = max(worst, float((a - b).abs().max()))
    return worst


class Interrupted(Exception):
    pass


def check_resume(home: Home, other: Home) -> dict[str, object]:
    """Fit once whole, and once interrupted half-way and continued; return whether the fields are bit-equal."""
    config = dataclasses.replace(TINY, seed=5)
    whole = fit_scene(home, SCENE_KEY, config)

    original = trainer_module.DrivingFieldTrainer.train_iteration

    def interrupted(self, step):
        result = original(self, step)
        if step == 11:
            self.save_checkpoint(step)
            raise Interrupted
        return result

    trainer_module.DrivingFieldTrainer.train_iteration = interrupted
    try:
        fit_scene(other, SCENE_KEY, config)
    except Interrupted:
        pass
    finally:
        trainer_module.DrivingFieldTrainer.train_iteration = original
    published_early = other.latest("nerf_teacher", SCENE_KEY) is not None
    left = [p.name for p in (other.root / "work").rglob("*.safetensors")]
    steps: list[float] = []
    resumed = fit_scene(other, SCENE_KEY, config, lambda _stage, _share, numbers: steps.append(numbers["step"]))
    fields = [
        (h.open_files(m.version) / "field.safetensors").read_bytes() for h, m in ((home, whole), (other, resumed))
    ]
    return {
        "published_early": published_early,
        "checkpoints_left_by_interruption": left,
        "equal": fields[0] == fields[1],
        "steps_after": steps,
        "work_is_gone": not [p for p in (other.root / "work").rglob("*") if p.is_file()],
        "same_digest": whole.version.digest == resumed.version.digest,
        "reused": fit_scene(other, SCENE_KEY, config).reused,
    }


def check_divergence(home: Home) -> dict[str, object]:
    """Poison the first attempt, then all of them."""
    original = trainer_module.DrivingFieldTrainer.train_iteration

    def poisoned(bad_seeds):
        def train_iteration(self, step):
            if step == 3 and self.datamanager.nerf.seed in bad_seeds:
                with torch.no_grad():
                    self.model.field.static_grid.table.fill_(float("nan"))
            return original(self, step)

        return train_iteration

    try:
        trainer_module.DrivingFieldTrainer.train_iteration = poisoned({20})
        recovered = fit_scene(home, SCENE_KEY, dataclasses.replace(TINY, seed=20, max_attempts=2))
        trainer_module.DrivingFieldTrainer.train_iteration = poisoned({30, 31})
        try:
            fit_scene(home, SCENE_KEY, dataclasses.replace(TINY, seed=30, max_attempts=2))
            raised = ""
        except TeacherDivergedError as error:
            raised = str(error)
    finally:
        trainer_module.DrivingFieldTrainer.train_iteration = original
    return {"seed_used": recovered.metrics["seed_used"], "raised": raised}


def check_implementations(home: Home) -> dict[str, object]:
    """Fit with nerfstudio's own grids, and ask for what this machine lacks."""

    def field_of(implementation):
        return dataclasses.replace(TINY, field=FieldConfig(num_levels=3, log2_table_size=12, **implementation))

    made = fit_scene(home, SCENE_KEY, field_of({"implementation": "nerfstudio"}))
    teacher = NerfTeacher.load(home, SCENE_KEY, TINY.execution, made.version.digest)
    refused = {}
    for device in ("cpu", "cuda"):
        try:
            settle_implementation(field_of({"implementation": "tcnn"}), device)
        except (EnvironmentMissingError, ValueError) as error:
            refused[device] = f"{type(error).__name__}: {error}"
    return {
        "grid": type(teacher.model.field.static_grid).__name__,
        "kept": teacher.nerf.field.implementation,
        "auto": settle_implementation(TINY, "cpu").field.implementation,
        "tcnn_exists": TCNN_EXISTS,
        "refused": refused,
    }


def check_broken(home: Home) -> dict[str, str]:
    """Take from the current field what it cannot do without, one thing at a time; return how loading it fails."""
    version = home.require("nerf_teacher", SCENE_KEY)
    folder = home.open_files(version)

    def load() -> str:
        manifest = {p.name: {"bytes": p.stat().st_size} for p in folder.iterdir() if p.name != "files.json"}
        (folder / "files.json").write_text(json.dumps(manifest))
        try:
            NerfTeacher.load(home, SCENE_KEY, TINY.execution)
        except IntegrityError as error:
            return f"{Path(error.key).name}: {error.message}"
        return ""

    whole = load()
    tensors, description = load_tensors(folder / "field.safetensors")
    lost = next(iter(tensors))
    save_tensors(folder / "field.safetensors", {n: t for n, t in tensors.items() if n != lost}, description)
    without_tensor = load()
    content = json.loads((folder / "field.json").read_text())
    del content["config"]["field"]["num_levels"]
    (folder / "field.json").write_text(json.dumps(content))
    return {"whole": whole, "lost": lost, "without_tensor": without_tensor, "without_setting": load()}


def main() -> None:
    home, other = Home(Path(sys.argv[1])), Home(Path(sys.argv[2]))
    os.environ["NERFSTUDIO_METHOD_CONFIGS"] = "driving-field=teachers.nerf.nerfstudio_method:driving_field"
    methods, _ = discover_methods()
    results = {
        "method": type(methods["driving-field"]).__name__,
        "ray_difference": check_rays(home),
        "resume": check_resume(home, other),
        "divergence": check_divergence(home),
        "implementations": check_implementations(home),
        "broken": check_broken(other),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
