"""Fit the field of one scene, judge it on frames it never saw, go on with those frames too, and publish it."""

import dataclasses
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from storage.digests import undefined_as_null
from storage.errors import TeacherDivergedError
from storage.kinds import Kind
from storage.scenes.moving import MovingBoxes
from storage.stores.provenance import package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from teachers.nerf.config import NerfConfig
from teachers.nerf.limits import Limits, typed_out_of_memory
from teachers.nerf.memory import bytes_to_come, memory_reserved
from teachers.nerf.methods import require_method
from teachers.nerf.nerfstudio_grid import settle_implementation
from teachers.nerf.progress import Progress
from teachers.nerf.provenance import FIELD_KIND, fit_provenance
from teachers.nerf.quality import judge_fit, shift_check
from teachers.nerf.teacher import NerfTeacher, resolve_device, save_teacher
from teachers.nerf.trainer import DrivingFieldTrainer, quieten_nerfstudio, trainer_config
from teachers.nerf.whole import scores_by_camera, whole_checks
from teachers.quality import gate

logger = logging.getLogger(__name__)

_PACKAGES = ("nerfstudio", "torch", "numpy", "safetensors", "zarr", "icechunk", "tinycudann")


def fit_scene(home: Home, scene_key: str, config: NerfConfig, on_progress: Progress | None = None) -> Materialized:
    """Return the field of a scene, fitting it first if it does not exist.

    An interrupted fit continues from its last checkpoint in the home's work folder. The metrics hold the scores and
    the quality gate on held-out frames, of the field as it was before it was fitted to those as well, and what that did
    to it; a fit that misses the gate is published all the same, marked as failed.

    Args:
        home: Where the scene is read from and the field is published.
        scene_key: The scene.
        config: The fit.
        on_progress: Told step, training PSNR and rays per second every few seconds.

    Raises:
        MissingTargetError: If the scene, or the sky mask that the configuration asks for, does not exist.
        EnvironmentMissingError: If this machine has not what the method needs.
        TeacherDivergedError: If every attempt diverged.
        OutOfCapacityError: If wall time, memory or disk ended. The last checkpoint stays, and a repeated call goes on.
    """
    require_method(config, resolve_device(config.execution))
    scene = home.require(Kind.SCENE, str(scene_key))
    sky_mask = home.require(Kind.SKY_MASK, str(scene_key)) if config.use_sky_mask else None
    provenance = dataclasses.replace(
        fit_provenance(home, str(scene_key), config),
        packages=package_versions(*_PACKAGES),
        device=resolve_device(config.execution),
    )
    work = home.work_folder(FIELD_KIND, str(scene_key)) / provenance.digest[:16]

    def write(folder: Path) -> dict[str, Any]:
        work.mkdir(parents=True, exist_ok=True)
        with typed_out_of_memory(str(scene_key)):
            trainer = _fit_until_sound(home, scene, sky_mask, config, work, on_progress)
            return _publish(folder, trainer)

    materialized = materialize_files(home, provenance, write)
    shutil.rmtree(work, ignore_errors=True)
    return materialized


def _fit_until_sound(
    home: Home,
    scene: StoreVersion,
    sky_mask: StoreVersion | None,
    config: NerfConfig,
    work: Path,
    on_progress: Progress | None,
) -> DrivingFieldTrainer:
    """Fit, with the next seed after each divergence."""
    limits = Limits(config.execution, scene.partition)
    settled = settle_implementation(config, resolve_device(config.execution))
    for attempt in range(config.max_attempts):
        seeded = dataclasses.replace(settled, seed=config.seed + attempt)
        settings = trainer_config(
            seeded,
            home_root=home.root,
            store_url=home.store_url,
            scene_key=scene.partition,
            scene_digest=scene.digest,
            sky_mask_digest="" if sky_mask is None else sky_mask.digest,
            work_folder=work,
            device=resolve_device(config.execution),
        )
        try:
            return _train(settings, limits, on_progress)
        except TeacherDivergedError as error:
            assert settings.checkpoint_path is not None
            settings.checkpoint_path.unlink(missing_ok=True)  # it may already hold what went wrong
            if attempt + 1 == config.max_attempts:
                raise
            logger.warning("%s; next attempt with seed %d", error, seeded.seed + 1)
    raise AssertionError("max_attempts is at least one")


def _train(
    settings: Any,  # noqa: ANN401 - nerfstudio's config
    limits: Limits,
    on_progress: Progress | None,
) -> DrivingFieldTrainer:
    quieten_nerfstudio()
    torch.manual_seed(settings.machine.seed)
    trainer: DrivingFieldTrainer = settings.setup(local_rank=0, world_size=1)
    trainer.on_progress = on_progress
    trainer.judge = _judge
    trainer.limits = limits
    trainer.setup(test_mode="inference")
    data = trainer.datamanager
    needed = bytes_to_come(
        data.nerf,
        parameter_bytes=sum(p.numel() * p.element_size() for p in trainer.model.parameters()),
        scene_bytes=data.rays.num_bytes,
    )

    def on_wait(reason: str) -> None:
        logger.warning("%s", reason)
        if on_progress is not None:
            on_progress("waiting for memory", 0.0, {"needed_mib": needed / (1 << 20)})

    with memory_reserved(needed, data.config.scene_key, on_wait=on_wait):
        trainer.train()
    return trainer


def _judge(trainer: DrivingFieldTrainer) -> dict[str, Any]:
    """Return what the field is on frames held out, and what it is, before it sees them, on all frames of phase two."""
    data, teacher = trainer.datamanager, _teacher(trainer)
    started = time.perf_counter()
    moving = MovingBoxes.of(data.scene)
    held_out = data.rays_of(data.split.held_out, scene=teacher.as_fitted(data.scene), moving=moving)
    metrics = judge_fit(teacher.render, held_out, data.nerf)
    was_fitted = torch.isin(data.rays.image_frame, torch.tensor(data.split.train))
    shift = shift_check(held_out.origins, data.rays.origins[was_fitted], metres_per_unit=data.bounds.metres_per_unit)
    metrics["quality"] = gate({**metrics["quality"]["checks"], "held_out_shift_m": shift})
    before = _scores(trainer, teacher) if data.nerf.whole_steps else {}
    return {"held_out": {**metrics, "judge_s": time.perf_counter() - started}, "before": before}


def _publish(folder: Path, trainer: DrivingFieldTrainer) -> dict[str, Any]:
    data, nerf, judgement = trainer.datamanager, trainer.datamanager.nerf, trainer.judgement
    assert judgement is not None
    held_out = judgement["held_out"]
    checks = dict(held_out["quality"]["checks"])
    phases = [{"frames": list(data.split.train), "steps": nerf.judged_steps}]
    metrics: dict[str, Any] = {**held_out}
    if nerf.whole_steps:
        phases.append({"frames": list(data.split.whole), "steps": nerf.whole_steps})
        after = undefined_as_null(_scores(trainer, _teacher(trainer)))
        checks |= whole_checks(judgement["before"], after, nerf.gate)
        metrics |= {"by_camera_before": judgement["before"], "by_camera": after}
    metrics |= {
        "quality": gate(checks),
        "seed_used": nerf.seed,
        "num_steps": nerf.num_steps,
        "judged_steps": nerf.judged_steps,
        "train_psnr": trainer.history[-1]["psnr"],
        "rays_per_s": sum(row["rays_per_s"] for row in trainer.history) / len(trainer.history),
        "judged_frames": len(data.split.train),
        "held_out_frames": len(data.split.held_out),
        "fitted_frames": list(data.fitted_frames),
        "blank_images": len(data.rays.blank_images),
        **data.trajectory.metrics(data.recorded),
    }
    details = {
        "seed": nerf.seed,
        "phases": phases,
        "held_out_frames": list(data.split.held_out),
        "blank_images": [[frame, data.scene.camera_names[camera]] for frame, camera in data.rays.blank_images],
        "judgement": held_out,
    }
    if data.refinement is not None:
        metrics["refined_cameras"] = details["refined_cameras"] = data.refinement.summary(data.scene.camera_names)
    save_teacher(
        folder,
        trainer.model,
        num_cameras=data.scene.num_cameras,
        num_frames=data.scene.num_frames,
        fitted_frames=data.fitted_frames,
        pose_corrections=data.trajectory.corrections,
        details=details,
    )
    (folder / "progress.json").write_text(json.dumps(trainer.history))
    logger.info("%s: held-out PSNR %s dB, AbsRel %s", FIELD_KIND, held_out["psnr"], held_out.get("lidar_abs_rel"))
    return metrics


def _teacher(trainer: DrivingFieldTrainer) -> NerfTeacher:
    """Return the field as it will be loaded, its sampler no longer softened."""
    data = trainer.datamanager
    trainer.model.sampler.set_anneal(1.0)
    return NerfTeacher(
        trainer.model, data.nerf, data.bounds, fitted_frames=data.fitted_frames, execution=data.nerf.execution
    )


def _scores(trainer: DrivingFieldTrainer, teacher: NerfTeacher) -> dict[str, dict[str, dict[str, float]]]:
    data = trainer.datamanager
    data.rays.refinement = data.refinement
    return scores_by_camera(teacher.render, data.rays, data.split.train, data.scene.camera_names, data.nerf)
