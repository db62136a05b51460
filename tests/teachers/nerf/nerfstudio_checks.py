"""Checks that need nerfstudio: run by its own interpreter, on the wall scene, with the home as argument.

Prints one JSON object as the last line: what ``test_nerfstudio_environment`` asserts on.
"""

import dataclasses
import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from teachers.nerf.torchvision_shim import declare_missing_operators

declare_missing_operators()

from nerfstudio.utils.external import TCNN_EXISTS  # noqa: E402

from storage.digests import file_digest  # noqa: E402
from storage.errors import (  # noqa: E402
    EnvironmentMissingError,
    IntegrityError,
    OutOfCapacityError,
    TeacherDivergedError,
)
from storage.geometry.rays import camera_rays  # noqa: E402
from storage.scenes.store import SceneReader  # noqa: E402
from storage.stores.versioned import Home  # noqa: E402
from teachers.nerf import fit as fit_module  # noqa: E402
from teachers.nerf import trainer as trainer_module  # noqa: E402
from teachers.nerf.checkpoint import load_tensors, load_training_state, save_tensors  # noqa: E402
from teachers.nerf.config import ErrorSamplingConfig, FieldConfig, NerfConfig, ProposalConfig, SamplingConfig  # noqa: E402
from teachers.nerf.dataparser import scene_cameras  # noqa: E402
from teachers.nerf.field import ProposalDensity  # noqa: E402
from teachers.nerf.fit import fit_scene  # noqa: E402
from teachers.nerf.moving_region import MovingRegion  # noqa: E402
from teachers.nerf.nerfstudio_grid import settle_implementation  # noqa: E402
from teachers.nerf.scene_rays import SceneBounds, measure_bounds  # noqa: E402
from teachers.nerf.teacher import NerfTeacher  # noqa: E402

SCENE_KEY = "test.wall"
TINY = NerfConfig(
    image_height=18,
    image_width=32,
    num_steps=24,
    pixel_rays=256,
    lidar_pixel_rays=64,
    lidar_rays=64,
    field=FieldConfig(
        num_levels=3,
        log2_table_size=12,
        dynamic=True,
        dynamic_log2_table_size=12,
        flow=True,
        shadow=True,
        appearance="image",
    ),
    sampling=SamplingConfig(
        proposals=(ProposalConfig(num_samples=16, log2_table_size=10), ProposalConfig(num_samples=12, num_levels=1)),
        num_field_samples=8,
    ),
    error_sampling=ErrorSamplingConfig(share=0.5, refresh_every=5, tile_px=4),
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
    """Fit once whole, and once interrupted in every phase and continued; return whether the fields are bit-equal."""
    config = dataclasses.replace(TINY, seed=5, fit_all_frames=True)
    whole = fit_scene(home, SCENE_KEY, config)
    trainer = trainer_module.DrivingFieldTrainer
    train_iteration, judge = trainer.train_iteration, fit_module.judge_fit
    taken: list[int] = []
    judged: list[int] = []

    def interrupted(self, step):
        taken.append(step)
        result = train_iteration(self, step)
        if step in (11, 20) and taken.count(step) == 1:
            self.save_checkpoint(step)
            raise Interrupted
        return result

    def interrupted_judge(render, held_out, nerf):
        judged.append(len(held_out.frames))
        if len(judged) == 1:
            raise Interrupted
        return judge(render, held_out, nerf)

    trainer.train_iteration, fit_module.judge_fit = interrupted, interrupted_judge
    interruptions, published_early, left, steps = 0, False, [], []
    try:
        for _ in range(3):
            try:
                fit_scene(other, SCENE_KEY, config)
            except Interrupted:
                interruptions += 1
            published_early |= other.latest("nerf_teacher", SCENE_KEY) is not None
            left += [p.name for p in (other.root / "work").rglob("*.safetensors")]
        resumed = fit_scene(other, SCENE_KEY, config, lambda _stage, _share, numbers: steps.append(numbers["step"]))
    finally:
        trainer.train_iteration, fit_module.judge_fit = train_iteration, judge
    folders = [h.open_files(m.version) for h, m in ((home, whole), (other, resumed))]
    return {
        "interruptions": interruptions,
        "taken": taken,
        "judged": judged,
        "published_early": published_early,
        "checkpoints_left_by_interruption": left,
        "equal": len({(folder / "field.safetensors").read_bytes() for folder in folders}) == 1,
        "same_judgement": whole.metrics["psnr"] == resumed.metrics["psnr"],
        "metrics": resumed.metrics,
        "description": json.loads((folders[1] / "field.json").read_text()),
        "steps_after": steps,
        "history": [row["step"] for row in json.loads((folders[1] / "progress.json").read_text())],
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


def check_limits(home: Home) -> dict[str, object]:
    """Stop at the limit of wall time after every step until the field is done; refuse too much memory, a full disk."""

    def limited(**limits):
        execution = dataclasses.replace(TINY.execution, **limits)
        return dataclasses.replace(TINY, seed=50, num_steps=4, fit_all_frames=True, execution=execution)

    def refusal(config):
        try:
            fit_scene(home, SCENE_KEY, config)
        except OutOfCapacityError as error:
            return str(error)
        return ""

    stops = []
    while (said := refusal(limited(max_wall_s=1e-3))) and len(stops) < 10:
        stops.append(said)
    memory = refusal(dataclasses.replace(limited(max_memory_bytes=1 << 20), seed=51))
    save_training_state, full = trainer_module.save_training_state, {"disk": True}

    def on_full_disk(path, state):
        if full["disk"] and state.step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, resource.RLIM_INFINITY))
        try:
            save_training_state(path, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    trainer_module.save_training_state = on_full_disk
    try:
        often = dataclasses.replace(limited(checkpoint_every_s=1e-6), seed=52)
        disk = refusal(often)
        left = load_training_state(next((home.root / "work").rglob("attempt-52.safetensors"))).step
        full["disk"] = False
        went_on = refusal(often)
    finally:
        trainer_module.save_training_state = save_training_state
    return {"stops": stops, "memory": memory, "disk": disk, "step_left": left, "went_on": went_on == ""}


def check_lacking(home: Home) -> dict[str, object]:
    """Fit scenes without LiDAR, with black images, without motion."""
    config = dataclasses.replace(TINY, fit_all_frames=True)
    found = {}
    for key in ("test.no-lidar", "test.black", "test.still"):
        made = fit_scene(home, key, config)
        description = json.loads((home.open_files(made.version) / "field.json").read_text())
        found[key] = {"metrics": made.metrics, "blank_images": description["blank_images"]}
    return found


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


def check_proposal() -> dict[str, list[bool]]:
    """Return where a proposal says another density than that of what stands still, by frame; one place moves in 1."""
    bounds = SceneBounds(centre_m=(0.0, 0.0, 0.0), half_extent_m=(20.0, 10.0, 5.0))
    proposal = ProposalDensity(ProposalConfig(), FieldConfig(dynamic=True), bounds)
    torch.nn.init.normal_(proposal.slices.table)
    region = MovingRegion(bounds, 3)
    positions = torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.2, 0.1]]])
    still = proposal(positions, torch.zeros(1, 1))
    found = {"anywhere": [bool((proposal(positions, torch.ones(1, 1), region) != still).any())]}
    region.confine([np.zeros((0, 3)), np.zeros((1, 3)), np.zeros((0, 3))])
    for frame in range(3):
        changed = proposal(positions, torch.full((1, 1), float(frame)), region) != still
        found[str(frame)] = changed[0, :, 0].tolist()
    return found


def check_broken(home: Home) -> dict[str, str]:
    """Take from the current field what it cannot do without, one thing at a time; return how loading it fails."""
    version = home.require("nerf_teacher", SCENE_KEY)
    folder = home.open_files(version)

    def load() -> str:
        files = [path for path in folder.iterdir() if path.name != "files.json"]
        manifest = {p.name: {"bytes": p.stat().st_size, "sha256": file_digest(p)} for p in files}
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
    results = {
        "ray_difference": check_rays(home),
        "resume": check_resume(home, other),
        "divergence": check_divergence(home),
        "implementations": check_implementations(home),
        "limits": check_limits(home),
        "lacking": check_lacking(Home(Path(sys.argv[3]))),
        "broken": check_broken(other),
        "proposal": check_proposal(),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
