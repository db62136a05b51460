"""Fine-tune: train a head on labelled voxels of a student's field, calibrate it, and score it on held-out scenes.

The student itself never learns from labels; a head that reads it may. Its labels are those of ``occupancy_labels``,
or what the recording's own LiDAR tells, ``lidar_occupancy``.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, StoreVersion, materialize_files
from storage.taxonomy import OCC3D_FREE, OCC3D_UNNAMED
from student.applications.finetuned_head import FinetunedHead, HeadReading, new_head, read_head
from student.config import FinetuneConfig, FinetuneLabels, FinetuneTask
from student.data.lineage import check_consistent
from student.data.training_set import TrainingSet
from student.evaluation.baselines import PRIOR_PER_VOXEL, VoxelPrior
from student.evaluation.frames import (
    EvaluationFrames,
    EvaluationScene,
    VoxelTruth,
    lidar_occupancy_of,
    occupancy_labels_of,
)
from student.evaluation.results import EvaluationResult, Section
from student.evaluation.sections.all_sections import VOXEL_REFERENCES
from student.evaluation.sections.occupancy import (
    OccupancyFit,
    OccupancySample,
    OccupancyScores,
    is_above_ground,
    occupancy_sections,
)
from student.evaluation.sections.semantics import SemanticScores
from student.evaluation.sections.voxels import score_classes, score_occupancy
from student.inference.checkpoint import save_pretrained
from student.inference.predictor import Predictor
from student.inference.vocabulary import training_set_of
from student.model.distillnerf import DistillNeRF
from student.model.occupancy_head import GridReading, KeptReadings, OccupancyHead, read_grid
from student.model.types import to_device
from student.training.occupancy import in_epochs

KIND = Kind.FINETUNED_HEAD
_ZERO_SHOT = "the student without labels"
_MAX_VOXELS_PER_FRAME = 50_000
_MAX_CLASS_WEIGHT = 10.0
_LOG_EVERY = 10
_UNNAMED = OCC3D_FREE + 1
_WITHOUT_LABELS = {
    "occ3d": "labels lie beside a recording as gts/<scene>/<token>/labels.npz",
    "lidar": "materialise lidar_occupancy of the student's scenes, in Occ3D's grid",
}

_ProbabilityOf = Callable[["_Labelled", np.ndarray], np.ndarray]


class _Labelled(NamedTuple):
    """One frame with labels that some camera sees. They are read when they are needed: many would fill the memory."""

    frames: EvaluationFrames
    frame: int

    def read(self) -> tuple[Int64[np.ndarray, " visible"], UInt8[np.ndarray, " visible"]]:
        """Return the flat indices of the voxels that some camera sees, and their labels; 254 for an unknown class."""
        truth = self.truth()
        visible = np.flatnonzero(truth.is_visible)
        return visible, truth.labels.reshape(-1)[visible]

    def truth(self) -> VoxelTruth:
        """Return the labelled voxels of the frame."""
        truth = self.frames.voxel_truth(self.frame)
        if truth is None:
            raise MissingTargetError(ErrorKind.TARGET_MISSING, f"{self.frames.key}:{self.frame}", "has no labels")
        return truth


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """Labelled frames by use, and what was left out."""

    train: list[_Labelled]
    calibration: list[_Labelled]
    held_out: list[_Labelled]
    versions: tuple[StoreVersion, ...]
    scenes: tuple[str, ...]
    unlabelled_frames: int


_LABELS_OF: Mapping[FinetuneLabels, Callable[[Home, str], StoreVersion | None]] = {
    "occ3d": occupancy_labels_of,
    "lidar": lidar_occupancy_of,
}


def finetune_head(
    home: Home,
    variant: str,
    task: FinetuneTask,
    config: FinetuneConfig | None = None,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Return a head for a student, training it first if it does not exist.

    Args:
        home: Home of the student, its scenes and their labels.
        variant: Partition of the student's checkpoint.
        task: What the head tells of a voxel.
        config: Training of the head.
        on_progress: Called with a stage, the share done, and figures.

    Raises:
        MissingTargetError: If there is no such student, or too few labelled frames.
        IntegrityError: If the labels to learn from hold only occupied or only free voxels.
        ProvenanceMismatchError: If labels are of another version of a scene than the student's inputs.
    """
    config = config or FinetuneConfig()
    checkpoint = home.require(Kind.STUDENT_CHECKPOINT, variant)
    training_set = training_set_of(home, checkpoint)
    predictor = Predictor.open(home, variant, checkpoint.digest, device=config.device)
    split = _split(home, training_set, predictor, config)
    inputs = (checkpoint.as_input, *sorted({version.as_input for version in split.versions}))
    determining = config.determining()
    provenance = Provenance(
        kind=KIND,
        partition=f"{variant}-{task}",
        inputs=inputs,
        config_digest=config_digest(determining),
        code_digest=code_digest(__name__, kind=KIND),
        seed=config.seed,
        licence=home.licence_of(inputs),
        config=config_json(determining) | {"task": task},
        packages=package_versions("numpy", "scipy", "torch"),
    )

    def write(folder: Path) -> Mapping[str, Any]:
        run = _Finetuning(predictor, task, config, split, on_progress or (lambda *_: None))
        head = run.train(checkpoint.digest)
        head.save(folder)
        if config.student != "frozen":  # the head reads the fields of a student that learned with it
            save_pretrained(folder, run.model, predictor.config, variant=variant)
        result = run.result(head, variant)
        (folder / "README.md").write_text(_card(result, task, config, split, provenance.licence))
        return {"task": task, "headline": result.headline(), "evaluation": result.to_json(), **run.counts()}

    return materialize_files(home, provenance, write)


def _split(home: Home, training_set: TrainingSet, predictor: Predictor, config: FinetuneConfig) -> _Split:
    train: list[_Labelled] = []
    held_out: list[_Labelled] = []
    versions: list[StoreVersion] = []
    scenes: list[str] = []
    unlabelled = 0
    for frozen in training_set.scenes:
        labels = _LABELS_OF[config.labels](home, frozen.key)
        if labels is None:
            unlabelled += frozen.num_frames
            continue
        learns = bool(frozen.train_frames)
        if learns and config.max_scenes is not None and len(scenes) >= config.max_scenes:
            if not frozen.validation_frames:
                continue
            learns = False
        check_consistent(home, (*frozen.stores.values(), labels))
        by_lidar = config.labels == "lidar"
        scene = EvaluationScene(
            frozen=frozen, truth=None, labels=None if by_lidar else labels, lidar=labels if by_lidar else None
        )
        frames = EvaluationFrames(home, training_set, scene, predictor.config.data)
        versions += [labels, *frozen.stores.values()]
        scenes += [frozen.key] if learns else []
        for wanted, found in (((frozen.train_frames if learns else ()), train), (frozen.validation_frames, held_out)):
            for frame in wanted:
                if frames.voxel_truth(frame) is None:
                    unlabelled += 1
                else:
                    found.append(_Labelled(frames, frame))
    if len(train) < 2 or not held_out:
        raise MissingTargetError(
            ErrorKind.TARGET_MISSING,
            str(training_set.version),
            f"{len(train)} labelled frames to learn from and {len(held_out)} held out, want at least 2 and 1: "
            f"{_WITHOUT_LABELS[config.labels]}",
        )
    every = max(2, round(1 / config.calibration_share))
    is_calibration = [index % every == every - 1 or (len(train) < every and index == 1) for index in range(len(train))]
    return _Split(
        train=[frame for frame, other in zip(train, is_calibration, strict=True) if not other],
        calibration=[frame for frame, other in zip(train, is_calibration, strict=True) if other],
        held_out=held_out,
        versions=tuple(versions),
        scenes=tuple(scenes),
        unlabelled_frames=unlabelled,
    )


class _Finetuning:
    """One training of a head, with its scores."""

    def __init__(
        self, predictor: Predictor, task: FinetuneTask, config: FinetuneConfig, split: _Split, tell: ProgressCallback
    ) -> None:
        self.task: FinetuneTask = task
        self.config, self.split, self._tell = config, split, tell
        torch.manual_seed(config.seed)
        self._zero_shot = predictor
        self.model = predictor.model
        self._device = next(self.model.parameters()).device
        if config.student == "from_nothing":
            self.model = DistillNeRF(predictor.config.model).to(self._device)
        elif config.student == "voxels":
            self.model = copy.deepcopy(predictor.model)
        self._feature_width = 2 * predictor.config.model.voxels.feature_width
        self._readings = KeptReadings()
        self._prior = VoxelPrior(grid=OCC3D_GRID)
        self._final_loss = math.nan

    def train(self, checkpoint_digest: str) -> FinetunedHead:
        """Train the head, then choose its threshold and calibration on frames that it did not learn from."""
        config = self.config
        weight = self._class_weights()
        head = new_head(config.head, self.task, self._feature_width).to(self._device)
        if config.student != "from_nothing":
            start_from(head, self.model.occupancy_head)
        groups = [{"params": list(head.parameters()), "share": 1.0}]
        learning = self._learning_part()
        if learning is not None:
            groups.append({"params": list(learning.parameters()), "share": config.student_rate})
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.model.train(learning is not None)
        order = in_epochs(self.split.train, config.steps, np.random.default_rng(config.seed))
        for step, labelled in enumerate(order):
            rate = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps)) * min(1, (step + 1) / 10)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss(head(self._reading(labelled)), labelled, weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 5.0)
            optimizer.step()
            self._final_loss = float(loss.detach())
            if (step + 1) % _LOG_EVERY == 0 or step + 1 == config.steps:
                figures = {"step": step + 1, "steps": config.steps, "loss": self._final_loss}
                self._tell("train", 0.8 * (step + 1) / config.steps, figures)
        self.model.eval()
        head.eval()
        return FinetunedHead(
            head=head,
            config=config.head,
            task=self.task,
            feature_width=self._feature_width,
            fit=self._fit_to(lambda labelled, visible: self._read(head, labelled).occupancy[visible]),
            checkpoint_digest=checkpoint_digest,
        )

    def result(self, head: FinetunedHead, variant: str) -> EvaluationResult:
        """Score the head on held-out frames, beside the student without labels and what ignores the input."""
        fit, zero_shot = head.fit, self._fit_to(self._own_probability)
        sample = OccupancySample(max_per_frame=_MAX_VOXELS_PER_FRAME, seed=self.config.seed + 1)
        occupancy = OccupancyScores(fit=fit, sample=sample, seed=self.config.seed)
        semantics = SemanticScores(seed=self.config.seed)
        for number, labelled in enumerate(self.split.held_out):
            key, (visible, labels) = labelled.frames.key, labelled.read()
            reading = self._read(head.head, labelled)
            probability, is_above = reading.occupancy[visible], is_above_ground(visible)
            others = {
                _ZERO_SHOT: zero_shot.thresholds.is_occupied(self._own_probability(labelled, visible), is_above),
                "all occupied": np.ones(len(visible), dtype=bool),
                PRIOR_PER_VOXEL: self._prior.occupied_share(visible) > 0.5,
            }
            score_occupancy(occupancy, key, visible, labels, probability, others=others)
            if reading.best_class is not None:
                score_classes(
                    semantics,
                    key,
                    labels,
                    reading.best_class[visible],
                    is_occupied=fit.thresholds.is_occupied(probability, is_above),
                    has_all_names=labelled.truth().has_all_names,
                    others={PRIOR_PER_VOXEL: self._prior.label(visible)},
                    words_of_others={PRIOR_PER_VOXEL: self._prior.name(visible)},
                )
            self._tell("held-out frames", 0.8 + 0.2 * (number + 1) / len(self.split.held_out), {"scene": key})
        reference = VOXEL_REFERENCES[self.config.labels]
        sections: list[Section] = list(occupancy_sections(occupancy, reference=reference))
        if self.task == "segmentation":
            found = semantics.section(unavailable="", reference=reference)
            note = "A head was trained on labels: no words are involved."
            sections.append(replace(found, title="Semantic occupancy by a fine-tuned head", note=note))
        return EvaluationResult(
            variant=variant,
            checkpoint_digest=head.checkpoint_digest,
            scenes=tuple(dict.fromkeys(labelled.frames.key for labelled in self.split.held_out)),
            num_frames=len(self.split.held_out),
            sections=tuple(sections),
            settings={
                "occupancy": fit.to_json(),
                "without_labels": zero_shot.to_json(),
            },
        )

    def counts(self) -> dict[str, Any]:
        """Return what the head learned from."""
        split = self.split
        return {
            "train_scenes": list(split.scenes),
            "train_frames": len(split.train),
            "calibration_frames": len(split.calibration),
            "unlabelled_frames": split.unlabelled_frames,
            "final_loss": self._final_loss,
            "student": self.config.student,
            "labels": self.config.labels,
        }

    # --- training -----------------------------------------------------------------------------------------------------

    def _learning_part(self) -> torch.nn.Module | None:
        parts = {"frozen": None, "voxels": self.model.voxel_network, "from_nothing": self.model}
        return parts[self.config.student]

    def _class_weights(self) -> Tensor:
        """Return the weight of each label, the last one for unnamed things: rare ones count more, up to a limit.

        Raises:
            IntegrityError: If only occupied, or only free voxels are labelled, or a class is asked for and none named.
        """
        count = np.zeros(_UNNAMED + 1, np.int64)
        for labelled in self.split.train:
            visible, labels = labelled.read()
            count += np.bincount(_indices(labels), minlength=len(count))
            self._prior.add(visible, labels)
        keys = ", ".join(self.split.scenes)
        if count[OCC3D_FREE] in {0, count.sum()}:
            what = "occupied" if count[OCC3D_FREE] == 0 else "free"
            raise IntegrityError(ErrorKind.LABELS_INVALID, keys, f"all {count.sum()} labelled voxels are {what}")
        if self.task == "segmentation" and not count[:OCC3D_FREE].any():
            message = (
                f"none of {count[_UNNAMED]} occupied voxels has a class: want task occupancy, or labels with classes"
            )
            raise IntegrityError(ErrorKind.LABELS_INVALID, keys, message)
        share = np.where(count > 0, count, np.inf) / count.sum()
        weight = np.where(count > 0, np.minimum(np.sqrt(share[OCC3D_FREE] / share), _MAX_CLASS_WEIGHT), 0.0)
        return torch.tensor(weight, dtype=torch.float32, device=self._device)

    def _loss(self, logits: Tensor, labelled: _Labelled, weight: Tensor) -> Tensor:
        visible, found = labelled.read()
        labels = torch.from_numpy(_indices(found)).to(self._device)
        seen = logits.flatten(0, 2).index_select(0, torch.from_numpy(visible).to(self._device))
        if self.task == "occupancy":
            is_occupied = (labels != OCC3D_FREE).float()
            return binary_cross_entropy_with_logits(seen[:, 0], is_occupied, weight=weight[labels])
        return label_error(seen, labels, weight)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _reading(self, labelled: _Labelled) -> GridReading:
        """Read a frame's field; once, where nothing of the student learns and there is room to keep it."""

        def read() -> GridReading:
            inputs = to_device(labelled.frames.camera_views(labelled.frame).inputs, self._device)
            learns = self._learning_part() is not None and self.model.training
            with torch.set_grad_enabled(learns):
                return read_grid(self.model.encode(inputs), OCC3D_GRID)

        if self.config.student != "frozen":
            return read()
        return self._readings.get((labelled.frames.key, labelled.frame), read)

    @torch.no_grad()
    def _read(self, head: OccupancyHead, labelled: _Labelled) -> HeadReading:
        return read_head(head, self._reading(labelled))

    def _fit_to(self, probability_of: _ProbabilityOf) -> OccupancyFit:
        """Choose thresholds and calibration on frames that were not learned from."""
        sample = OccupancySample(max_per_frame=_MAX_VOXELS_PER_FRAME, seed=self.config.seed)
        for labelled in self.split.calibration:
            visible, labels = labelled.read()
            sample.add(probability_of(labelled, visible), labels != OCC3D_FREE, is_above_ground(visible))
        fit = sample.fit("isotonic")
        if fit is None:
            keys = ", ".join(dict.fromkeys(labelled.frames.key for labelled in self.split.calibration))
            raise IntegrityError(ErrorKind.LABELS_INVALID, keys, "the labels to calibrate on have only one outcome")
        return fit

    def _own_probability(self, labelled: _Labelled, visible: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        field = self._zero_shot.encode(labelled.frames.camera_views(labelled.frame).inputs)
        return self._zero_shot.occupancy(field, visible).probability


def start_from(head: OccupancyHead, own: OccupancyHead | None) -> bool:
    """Start a head from the student's own where that is as wide: it knows where things go on that no pixel shows.

    Args:
        head: Head to be trained. One that tells classes keeps its last layer, for which the other has no weights.
        own: The student's own head, if it has one.

    Returns:
        Whether anything was taken.
    """
    if own is None or own.config != head.config:
        return False
    wanted = head.state_dict()
    given = {name: value for name, value in own.state_dict().items() if value.shape == wanted[name].shape}
    head.load_state_dict({**wanted, **given})
    return True


def label_error(
    logits: Float[Tensor, "n labels"], labels: Int64[Tensor, " n"], weight: Float[Tensor, " labels_and_unnamed"]
) -> Float[Tensor, ""]:
    """Return the weighted mean cross-entropy of voxels; one without a known class may be of any, but is not free.

    Args:
        logits: Scores of classes 0 to 16 and of free.
        labels: Class, 17 for free, 18 for something without a known class.
        weight: Weight of each label.
    """
    log_probability = logits.log_softmax(dim=1)
    log_occupied = log_probability[:, :OCC3D_FREE].logsumexp(dim=1, keepdim=True)
    error = -torch.cat([log_probability, log_occupied], dim=1).gather(1, labels[:, None])[:, 0]
    return (weight[labels] * error).sum() / weight[labels].sum()


def _indices(labels: UInt8[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Return labels as consecutive numbers, those of something without a known class last."""
    return np.where(labels == OCC3D_UNNAMED, _UNNAMED, labels).astype(np.int64)


def _card(result: EvaluationResult, task: str, config: FinetuneConfig, split: _Split, licence: str) -> str:
    rows: Sequence[str] = [
        f"| {name} | {value:.4g} | {figure.spelt_baselines()} |" for name, value, figure in result.main_figures()
    ]
    return "\n".join(
        [
            f"# Head for {task}",
            "",
            f"It reads the fields of student `{result.variant}` (`{result.checkpoint_digest[:12]}`; {config.student}).",
            f"It learned from {len(split.train)} frames of {', '.join(split.scenes)}, labelled by "
            f"{VOXEL_REFERENCES[config.labels]}.",
            f"Threshold and calibration were chosen on {len(split.calibration)} other frames of these scenes.",
            "",
            f"Scores on {result.num_frames} held-out frames of {', '.join(result.scenes)}:",
            "",
            "| figure | value | beside it |",
            "|---|---|---|",
            *rows,
            "",
            f"Licences of what it learned from: {licence}.",
            "",
        ]
    )
