"""Fit the field of one scene, judge it on frames it never saw, and publish it."""

import dataclasses
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from storage.errors import TeacherDivergedError
from storage.kinds import Kind
from storage.scenes.moving import MovingBoxes
from storage.stores.provenance import package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from teachers.nerf.config import NerfConfig
from teachers.nerf.methods import require_method
from teachers.nerf.nerfstudio_grid import settle_implementation
from teachers.nerf.progress import Progress
from teachers.nerf.provenance import FIELD_KIND, fit_provenance
from teachers.nerf.quality import judge_fit
from teachers.nerf.teacher import NerfTeacher, resolve_device, save_teacher
from teachers.nerf.trainer import DrivingFieldTrainer, quieten_nerfstudio, trainer_config

logger = logging.getLogger(__name__)

_PACKAGES = ("nerfstudio", "torch", "numpy", "safetensors", "zarr", "icechunk", "tinycudann")


def fit_scene(home: Home, scene_key: str, config: NerfConfig, on_progress: Progress | None = None) -> Materialized:
    """Return the field of a scene, fitting it first if it does not exist.

    An interrupted fit continues from its last checkpoint in the home's work folder. The metrics hold the scores and
    the quality gate on held-out frames; a fit that misses the gate is published all the same, marked as failed.

    Args:
        home: Where the scene is read from and the field is published.
        scene_key: The scene.
        config: The fit.
        on_progress: Told step, training PSNR and rays per second every few seconds.

    Raises:
        MissingTargetError: If the scene, or the sky mask that the configuration asks for, does not exist.
        EnvironmentMissingError: If this machine has not what the method needs.
        TeacherDivergedError: If every attempt diverged.
    """
    require_method(config)
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
        trainer = _fit_until_sound(home, scene, sky_mask, config, work, on_progress)
        return _publish(folder, trainer, config)

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
            return _train(settings, on_progress)
        except TeacherDivergedError as error:
            assert settings.checkpoint_path is not None
            settings.checkpoint_path.unlink(missing_ok=True)  # it may already hold what went wrong
            if attempt + 1 == config.max_attempts:
                raise
            logger.warning("%s; next attempt with seed %d", error, seeded.seed + 1)
    raise AssertionError("max_attempts is at least one")


def _train(settings: Any, on_progress: Progress | None) -> DrivingFieldTrainer:  # noqa: ANN401 - nerfstudio's config
    quieten_nerfstudio()
    torch.manual_seed(settings.machine.seed)
    trainer: DrivingFieldTrainer = settings.setup(local_rank=0, world_size=1)
    trainer.on_progress = on_progress
    trainer.setup(test_mode="inference")
    trainer.train()
    return trainer


def _publish(folder: Path, trainer: DrivingFieldTrainer, config: NerfConfig) -> dict[str, Any]:
    data = trainer.datamanager
    nerf = data.nerf
    started = time.perf_counter()
    teacher = NerfTeacher(trainer.model, nerf, data.bounds, execution=config.execution)
    held_out = data.rays_of(data.split.held_out, moving=MovingBoxes(data.scene.boxes()))
    metrics = judge_fit(teacher.render, held_out, nerf)
    save_teacher(
        folder,
        trainer.model,
        num_cameras=data.scene.num_cameras,
        num_frames=data.scene.num_frames,
        details={
            "seed": nerf.seed,
            "train_frames": list(data.split.train),
            "held_out_frames": list(data.split.held_out),
        },
    )
    (folder / "progress.json").write_text(json.dumps(trainer.history))
    metrics |= {
        "seed_used": nerf.seed,
        "num_steps": nerf.num_steps,
        "train_psnr": trainer.history[-1]["psnr"],
        "rays_per_s": sum(row["rays_per_s"] for row in trainer.history) / len(trainer.history),
        "held_out_frames": len(data.split.held_out),
        "judge_s": time.perf_counter() - started,
    }
    logger.info("%s: held-out PSNR %.2f dB, AbsRel %.3f", FIELD_KIND, metrics["psnr"], metrics["lidar_abs_rel"])
    return metrics
