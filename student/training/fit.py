"""Fit a student: the training loop, from a frozen training set to a published checkpoint.

A stopped fit continues from its last saved state. On a CPU, it ends with the same bits as an uninterrupted one.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from encoders.efficientnet import imagenet_file
from storage.code import code_digest
from storage.digests import config_digest, config_json, file_digest
from storage.errors import ErrorKind, MissingTargetError
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.provenance import InputVersion, Provenance, package_versions
from storage.stores.shared_work import SharedWork
from storage.stores.versioned import Home, Materialized, materialize_files, reuse
from student.config import FitConfig, StudentConfig
from student.data.dataset import FrameDataset
from student.data.loader import LoaderState, TrainingLoader
from student.data.sample import TrainingBatch
from student.data.training_set import TrainingSet, load_training_set
from student.inference.checkpoint import MODEL_FILE, save_pretrained
from student.inference.feature_bases import FEATURE_BASES_FILE, feature_bases_of, save_feature_bases
from student.losses.total import Losses
from student.model.distillnerf import DistillNeRF
from student.training.feature_heads import FeatureHeadLesson, settle_feature_heads
from student.training.initial import initial_folder, take_imagenet_weights, take_weights
from student.training.log import TrainingLog
from student.training.model_card import write_records
from student.training.occupancy import OccupancyLesson, teach_occupancy
from student.training.optimization import learning_rate
from student.training.processes import Processes, is_under_torchrun, join_processes
from student.training.state import MANIFEST, FitProgress, restore_state, save_state, share_done
from student.training.step import TrainingStep
from student.training.torchrun import fit_with_torchrun
from student.training.trackers import open_trackers
from student.training.validation import quality_gate, validate

KIND = Kind.STUDENT_CHECKPOINT

_SHARE_EVERY_S = 300.0
"""Shortest time between copies of states into the bucket of a home: a state is three times as large as a student."""

logger = logging.getLogger(__name__)


def fit_student(
    home: Home,
    variant: str,
    config: StudentConfig,
    on_progress: ProgressCallback | None = None,
    *,
    training_set: str | None = None,
) -> Materialized:
    """Return the checkpoint of a variant, fitting it first if it does not exist.

    With several ``config.fit.runtime.processes``, ``torchrun`` starts them and they fit it. Under ``torchrun``, every
    process calls this with the same arguments and must see the same home.

    Args:
        home: Home of the training set and of the checkpoint.
        variant: Partition of the checkpoint.
        config: The run.
        on_progress: Called at every logged step with the loss, its terms, steps per second and the time left.
        training_set: Name of the frozen training set; the variant's own by default.

    Raises:
        MissingTargetError: If there is no such training set, it lacks a kind that the run reads, or there is no such
            initial checkpoint.
        IntegrityError: If a store lost data, or the initial checkpoint is damaged or does not fit.
        EnvironmentMissingError: If the package of a tracker that was asked for is not installed.
        StudentDivergedError: If a loss or gradient is not finite; its key names the samples.
        OutOfCapacityError: If there are fewer CUDA devices than processes.
        ChildProcessError: If one of several processes ended without a typed error, such as by a signal.
    """
    frozen = load_training_set(home, training_set or variant)
    upstream = home.provenance(frozen.version)
    device = _device(config.fit)
    provenance = Provenance(
        kind=KIND,
        partition=variant,
        inputs=(frozen.version.as_input, *_initial_version(home, config.fit)),
        config_digest=config_digest(config.determining()),
        code_digest=code_digest(__name__, kind=KIND),
        seed=config.fit.seed,
        weights_digests=_weights_digests(config),
        licence=upstream.licence,
        config=config_json(config),
        packages=package_versions("icechunk", "numpy", "torch", "zarr"),
        device=str(device),
    )
    if config.fit.runtime.processes > 1 and not is_under_torchrun():
        existing = reuse(home, provenance)
        if existing is not None:
            return existing
        fit_with_torchrun(home, variant, config, on_progress, training_set=training_set or variant, device=device)
        version = home.require(KIND, variant, provenance.digest)
        return Materialized(version=version, reused=False, metrics=home.metrics(version))
    work = home.work_folder(KIND, variant) / provenance.digest
    logs = home.root / "logs" / "student" / variant / provenance.digest[:12]

    with join_processes(device) as processes:

        def fit() -> _Fit:
            return _Fit(home, frozen, config, processes, work=work, logs=logs)

        def write(folder: Path) -> dict[str, Any]:
            processes.gather("to be fitted")
            fitted = fit()
            progress = fitted.run(on_progress)
            model = fitted.training.model
            heads = fitted.settle_heads(on_progress)
            lesson = fitted.teach_occupancy(on_progress)
            save_pretrained(folder, model, _as_fitted(config, model), variant=variant)
            save_feature_bases(folder, fitted.bases)
            metrics = _metrics(model, progress, config) | {"keeps_depth": fitted.keeps_depth}
            if heads is not None:
                metrics["heads"] = heads.to_json()
            if lesson is not None:
                metrics["occupancy"] = lesson.to_json()
            if fitted.initial is not None:
                metrics["initial"] = asdict(fitted.initial) | {"checkpoint": config.fit.initial}
            write_records(
                folder,
                home,
                frozen,
                kinds=config.data.kinds,
                variant=variant,
                provenance=provenance,
                progress=progress,
                metrics=metrics,
            )
            return metrics

        if not processes.is_first:
            if processes.gather(None)[0] == "to be fitted":
                fit().run(None)
            processes.gather(None)
            version = home.require(KIND, variant, provenance.digest)
            return Materialized(version=version, reused=False, metrics=home.metrics(version))
        done = materialize_files(home, provenance, write)
        if done.reused:
            processes.gather("there")
        shutil.rmtree(work, ignore_errors=True)  # only now: until it is published, the state is all there is
        SharedWork(home, work, last=MANIFEST).drop()
        processes.gather("published")
        return done


class _Fit:
    """One fit, seen by this process."""

    def __init__(
        self,
        home: Home,
        frozen: TrainingSet,
        config: StudentConfig,
        processes: Processes,
        *,
        work: Path,
        logs: Path,
    ) -> None:
        self.home, self.frozen = home, frozen
        self.config = config
        self.processes = processes
        self.work = work
        self.shared_work = SharedWork(home, work, last=MANIFEST)
        self.logs = logs
        self.keeps_depth = config.fit.initial is not None and not _is_depth_told(home, frozen, config)
        if self.keeps_depth:
            logger.warning(
                "nothing tells depth, neither LiDAR nor a field: its network keeps the weights it starts from"
            )
        self.training = TrainingStep(config, processes, keeps_depth=self.keeps_depth)
        training = self.training
        self.bases = feature_bases_of(home, frozen, config.data.feature_sources)
        self.initial = None
        if config.fit.initial is not None:
            self.initial = take_weights(training.model, initial_folder(config.fit.initial), self.bases)
        else:
            take_imagenet_weights(training.model)
        training.forget_average()
        self._fetch_states()
        found = restore_state(work, training.model, training.optimizer, training.scaler, training.average)
        self.progress = found or FitProgress()
        if self.progress.step:
            logger.info("going on from step %d", self.progress.step)
        self.train_data = FrameDataset(home, frozen, "train", config.data, seed=config.fit.seed)
        self.held_out = FrameDataset(home, frozen, "validation", config.data)

    def _fetch_states(self) -> None:
        """Bring the newest state to every machine: the first process's own, or one from the bucket."""
        if self.processes.is_first:
            self.shared_work.pull()
            self.shared_work.push()
        self.processes.gather("pushed")
        if self.processes.is_first_of_machine and not self.processes.is_first:
            self.shared_work.pull()
        self.processes.gather("pulled")

    def run(self, on_progress: ProgressCallback | None) -> FitProgress:
        """Train to the end of the budget, then put the weights to publish into the model."""
        fit, progress = self.config.fit, self.progress
        loader = TrainingLoader(
            self.train_data,
            batch_size=self.config.data.batch_size,
            seed=fit.seed,
            num_workers=fit.runtime.num_workers,
            state=LoaderState(samples_delivered=progress.samples_delivered),
            share=(self.processes.rank, self.processes.count),
        )
        batches: Iterator[TrainingBatch] = iter(loader)
        is_first = self.processes.is_first
        run = "/".join(self.logs.parts[-2:])
        trackers = open_trackers(fit.runtime.trackers if is_first else (), self.logs, run, progress.step + 1)
        with TrainingLog(trackers, progress, fit, on_progress if is_first else None) as log:
            started = time.perf_counter() - progress.elapsed_s
            shared_at = time.monotonic()
            while not _is_over(fit, progress):
                batch = next(batches).to(self.processes.device)
                rate = learning_rate(fit.optimizer, progress.step, share_done(fit, progress))
                losses = self.training.take(batch, step=progress.step, rate=rate)
                figures, progress.elapsed_s = self._shared(losses, time.perf_counter() - started)
                progress.step += 1
                progress.samples_delivered = loader.state.samples_delivered
                log.step(figures, rate, is_last=_is_over(fit, progress))
                if progress.step % fit.validate_every == 0 and not _is_over(fit, progress):
                    self._validate(log)
                if progress.step % fit.runtime.save_every == 0 and is_first:
                    training = self.training
                    save_state(
                        self.work, progress, training.model, training.optimizer, training.scaler, training.average
                    )
                    if time.monotonic() - shared_at >= _SHARE_EVERY_S:
                        self.shared_work.push()
                        shared_at = time.monotonic()
            self._validate(log)
        if self.training.average is not None:
            self.training.average.swap(self.training.model)
        return progress

    def settle_heads(self, on_progress: ProgressCallback | None) -> FeatureHeadLesson | None:
        """Bring the heads of foundation features to rest; None if there is nothing to do."""
        return settle_feature_heads(
            self.training.model, self.train_data, self.config, seed=self.config.fit.seed, on_progress=on_progress
        )

    def teach_occupancy(self, on_progress: ProgressCallback | None) -> OccupancyLesson | None:
        """Teach the occupancy head of the published weights; a head that nothing ever taught is taken away."""
        model = self.training.model
        if model.occupancy_head is None:
            return None
        lesson = teach_occupancy(
            model,
            self.home,
            self.frozen,
            self.train_data,
            self.config.fit.occupancy,
            seed=self.config.fit.seed,
            on_progress=on_progress,
        )
        was_taught = self.initial is not None and "occupancy_head" not in self.initial.fresh_parts
        if not lesson.steps and not was_taught:
            model.occupancy_head, model.voxel_feature_heads = None, torch.nn.ModuleDict()
        return lesson

    def _validate(self, log: TrainingLog) -> None:
        """Score held-out frames with the weights that would be published now."""
        if not self.processes.is_first:
            return  # they wait at the next step
        fit = self.config.fit
        with self.training.published_weights():
            found = validate(
                self.training.model,
                self.held_out,
                max_samples=fit.max_validation_samples,
                max_pictures=fit.runtime.max_pictures,
                device=self.processes.device,
            )
        log.validation(found)

    def _shared(self, losses: Losses, elapsed_s: float) -> tuple[dict[str, float], float]:
        """Return losses and time spent, averaged over processes, so that all of them stop together."""
        named = {
            "total": losses.total,
            **{f"loss/{name}": term for name, term in losses.terms.items()},
            **{f"count/{name}": count for name, count in losses.counts.items()},
        }
        values = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in (*named.values(), elapsed_s)])
        means = (self.processes.total(values.to(self.processes.device)) / self.processes.count).tolist()
        return dict(zip(named, means[:-1], strict=True)), means[-1]


def _is_depth_told(home: Home, frozen: TrainingSet, config: StudentConfig) -> bool:
    """Return whether anything tells a student depth: the scene teacher, or a LiDAR return in a training frame."""
    if config.data.teacher_depth:
        return True
    for scene in frozen.scenes:
        version = scene.stores[Kind.SCENE]
        reader = SceneReader(home.open_arrays(version), version)
        if any(map(reader.num_lidar_points, scene.train_frames)):
            return True
    return False


def _is_over(fit: FitConfig, progress: FitProgress) -> bool:
    return share_done(fit, progress) >= 1.0


def _as_fitted(config: StudentConfig, model: DistillNeRF) -> StudentConfig:
    """Return the run with a model that has the parts that were published."""
    if model.occupancy_head is not None:
        return config
    heads = tuple(replace(head, voxel_width=0) for head in config.model.feature_heads)
    return replace(config, model=replace(config.model, occupancy_head=None, feature_heads=heads))


def _device(fit: FitConfig) -> torch.device:
    device = fit.runtime.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)


def _metrics(model: nn.Module, progress: FitProgress, config: StudentConfig) -> dict[str, Any]:
    last = progress.history[-1] if progress.history else {}
    validation = progress.validations[-1] if progress.validations else {}
    metrics: dict[str, Any] = {
        "steps": progress.step,
        "samples": progress.samples_delivered,
        "fit_seconds": progress.elapsed_s,
        "steps_per_second": progress.step / max(progress.elapsed_s, 1e-9),
        "parameters": sum(p.numel() for p in model.parameters()),
        "stopped_by": "steps" if progress.step >= config.fit.max_steps else "seconds",
        "loss": last.get("total"),
        "losses": {name: value for name, value in last.items() if name.startswith("loss/")},
        "validation": validation,
    }
    quality = quality_gate(validation)
    return metrics if quality is None else {**metrics, "quality": quality}


def _weights_digests(config: StudentConfig) -> dict[str, str]:
    """Return the SHA-256 of every weights file that a fit reads."""
    found = {} if config.losses.lpips_weights is None else {"lpips": file_digest(config.losses.lpips_weights)}
    if config.fit.initial is not None:
        folder = initial_folder(config.fit.initial)
        files = (name for name in (MODEL_FILE, FEATURE_BASES_FILE) if (folder / name).is_file())
        found |= {f"initial/{name}": file_digest(folder / name) for name in files}
        if f"initial/{MODEL_FILE}" not in found:
            raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(folder / MODEL_FILE), "no such file to start from")
    elif any(
        p.encoder == "efficientnet-lite0" for p in (config.model.coarse_depth.pyramid, config.model.fine_depth.pyramid)
    ):
        found["imagenet"] = file_digest(imagenet_file())
    return found


def _initial_version(home: Home, fit: FitConfig) -> tuple[InputVersion, ...]:
    """Return the version that a fit starts from, if it is one of this home."""
    if fit.initial is None:
        return ()
    folder = initial_folder(fit.initial).resolve()
    return tuple(v.as_input for v in home.versions(KIND) if home.open_files(v).resolve() == folder)
