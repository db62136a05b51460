"""Teach a student's occupancy head when the rest of the student is done: occupied or free, by beams and by sight.

Heads of voxel features are taught with it, by what image teachers say where beams end.

The field says little between the rows of its pixels, which are metres of road apart, and nothing behind what it sees.
Beams of many sweeps know both (:mod:`storage.references.occupancy_votes`). The votes are taken here, from the scenes of
the training set. Sweeps of held-out frames do not testify, and no box and no label is read, so that what moves is told
by the beams themselves. Of what no beam tells, the frame's own cameras say what they see through
(:mod:`student.training.seen_through`).
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from storage.errors import ErrorKind, StudentDivergedError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import sample_key
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.references.config import LidarOccupancyConfig
from storage.references.lidar_occupancy import votes_of_scene
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN
from student.config import OccupancyFitConfig
from student.data.dataset import FrameDataset
from student.data.evenly_spaced import evenly_spaced
from student.data.training_set import FrozenScene, TrainingSet
from student.model.distillnerf import DistillNeRF
from student.model.occupancy_head import GridReading, KeptReadings, mirrored, nearest_held, read_grid
from student.model.types import to_device
from student.training.seen_through import seen_through
from student.training.voxel_features import (
    FeatureWitnesses,
    KnownFeatures,
    feature_error,
    mirrored_features,
    mirrored_voxels,
)

_MAX_WEIGHT = 10.0
_WEIGHT_DECAY = 0.01
_MAX_GRADIENT_NORM = 5.0
_WARMUP_STEPS = 10
_LOG_EVERY = 10

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


class KnownVoxels(NamedTuple):
    """What is known of one frame.

    Attributes:
        flat: Flat indices of the voxels of the Occ3D grid that are known, ascending.
        is_occupied: Which of them are occupied.
    """

    flat: Int64[np.ndarray, " known"]
    is_occupied: Bool[np.ndarray, " known"]

    def also_free(self, is_free: Bool[np.ndarray, " voxels"]) -> "KnownVoxels":
        """Return what is known if those voxels of the grid are free of which nothing was known."""
        is_known, is_occupied = is_free.copy(), np.zeros_like(is_free)
        is_known[self.flat] = True
        is_occupied[self.flat] = self.is_occupied
        flat = np.flatnonzero(is_known)
        return KnownVoxels(flat, is_occupied[flat])


class Lesson(NamedTuple):
    """What one frame teaches.

    Attributes:
        voxels: What beams know, and of the rest what cameras see through.
        features: What image teachers say of some occupied voxels, by source.
        num_seen_through: Number of the voxels that cameras know, and no beam.
    """

    voxels: KnownVoxels
    features: Mapping[str, KnownFeatures]
    num_seen_through: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupancyLesson:
    """What a head learned from.

    Attributes:
        frames: Number of frames with votes.
        frames_without_beams: Number of frames about which no beam knew anything.
        occupied_share: Share of the known voxels that are occupied; None without any.
        steps: Steps taken.
        loss: Mean loss of the last tenth of the steps; None without a step.
        feature_errors: Mean squared error of the features of voxels in the same steps, by source.
        seen_through_share: Share of the known voxels that no beam knew, and that cameras see through; None without any.
    """

    frames: int
    frames_without_beams: int
    occupied_share: float | None
    steps: int
    loss: float | None
    feature_errors: Mapping[str, float] = field(default_factory=dict)
    seen_through_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def teach_occupancy(
    model: DistillNeRF,
    home: Home,
    frozen: TrainingSet,
    dataset: FrameDataset,
    config: OccupancyFitConfig,
    *,
    seed: int = 0,
    features_only: bool = False,
    on_progress: ProgressCallback | None = None,
) -> OccupancyLesson:
    """Teach a model's occupancy head, and the heads that read its sight; nothing else of the model changes.

    Occupancy is what it would be without those heads: they learn from what it sees, and do not shape it.

    Args:
        model: The student; it must have a head. It is left in evaluation mode.
        home: Home of the scenes.
        frozen: Their exact versions, and the frames to learn from.
        dataset: The training samples of the same scenes.
        config: Budget.
        seed: Seed of the order of frames and of their mirror images.
        features_only: Leave the occupancy head as it is, and teach the heads that read its sight alone.
        on_progress: Called with a stage, the share done, and figures.

    Raises:
        ValueError: If the model has no head, or none of those that are to be taught.
        StudentDivergedError: If a loss is not finite; its key names the frame.
        IntegrityError: If a scene's store has lost data.
    """
    head = model.occupancy_head
    if head is None:
        raise ValueError("the model has no occupancy head")
    if features_only and not model.voxel_feature_heads:
        raise ValueError("the model has no head of voxel features")
    tell = on_progress or (lambda *_: None)
    model.eval()
    found = lessons_of(home, frozen, dataset, config, list(model.voxel_feature_heads), tell) if config.steps else {}
    lessons = {key: lesson for key, lesson in found.items() if len(lesson.voxels.flat)}
    share = _share(lesson.voxels for lesson in lessons.values())
    if not lessons or not 0.0 < share < 1.0:
        if config.steps:
            logger.warning("no LiDAR beam of %d frames tells occupied from free: the head stays as it is", len(found))
        return OccupancyLesson(
            frames=len(lessons),
            frames_without_beams=len(found) - len(lessons),
            occupied_share=share if lessons else None,
            steps=0,
            loss=None,
        )
    device = next(model.parameters()).device
    weight = min(_MAX_WEIGHT, math.sqrt((1.0 - share) / share))
    generator = np.random.default_rng((seed, 1))
    readings, losses, errors = KeptReadings(), [], []
    parts = [*([] if features_only else [head]), *model.voxel_feature_heads.values()]
    taught = torch.nn.ModuleList(parts).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(taught.parameters(), lr=config.learning_rate, weight_decay=_WEIGHT_DECAY)
    for step, key in enumerate(in_epochs(list(lessons), config.steps, generator)):
        for group in optimizer.param_groups:
            group["lr"] = _rate(config, step)
        reading = readings.get(key, lambda: _read(model, dataset, dataset.index_of[key], device))  # noqa: B023 - called at once
        lesson = lessons[key]
        if generator.random() < 0.5:
            reading, lesson = mirrored(reading, OCC3D_GRID), _mirrored(lesson)
        optimizer.zero_grad(set_to_none=True)
        seen = head.look(reading)
        beams = beam_error(head.label(seen), lesson.voxels, weight)
        told = {s: _feature_error(model, s, reading, seen.detach(), of) for s, of in lesson.features.items()}
        losses.append(float(beams.detach()))
        errors.append({source: float(error.detach()) for source, error in told.items()})
        torch.stack([*told.values()] if features_only else [beams, *told.values()]).sum().backward()
        for part in parts:
            torch.nn.utils.clip_grad_norm_(part.parameters(), _MAX_GRADIENT_NORM)
        optimizer.step()
        if not math.isfinite(losses[-1] + sum(errors[-1].values())):
            found_loss = f"loss {losses[-1]}, errors of features {errors[-1]}"
            raise StudentDivergedError(
                ErrorKind.DIVERGED, sample_key(*key), f"occupancy head at step {step}: {found_loss}"
            )
        if (step + 1) % _LOG_EVERY == 0 or step + 1 == config.steps:
            figures = {
                "step": step + 1,
                "steps": config.steps,
                "loss": float(np.mean(losses[-_LOG_EVERY:])),
                **{f"{source}_error": mean for source, mean in _means(errors[-_LOG_EVERY:]).items()},
            }
            tell("occupancy", (step + 1) / config.steps, figures)
    model.eval()
    last = slice(-max(1, config.steps // 10), None)
    return OccupancyLesson(
        frames=len(lessons),
        frames_without_beams=len(found) - len(lessons),
        occupied_share=share,
        steps=config.steps,
        loss=float(np.mean(losses[last])),
        feature_errors=_means(errors[last]),
        seen_through_share=sum(of.num_seen_through for of in lessons.values())
        / sum(len(of.voxels.flat) for of in lessons.values()),
    )


def beam_error(logits: Float[Tensor, "x y z 1"], voxels: KnownVoxels, occupied_weight: float) -> Float[Tensor, ""]:
    """Return the weighted mean cross-entropy of the known voxels of one frame.

    Args:
        logits: Head's output.
        voxels: What beams know.
        occupied_weight: Weight of an occupied voxel beside that of a free one: occupied ones are rare.
    """
    known = torch.from_numpy(voxels.flat).to(logits.device)
    is_occupied = torch.from_numpy(voxels.is_occupied).to(logits.device)
    weight = torch.where(is_occupied, occupied_weight, 1.0)
    seen = logits.reshape(-1).index_select(0, known)
    error = binary_cross_entropy_with_logits(seen, is_occupied.float(), weight=weight, reduction="sum")
    return error / weight.sum()


def votes_to_learn_from(scene: SceneReader, frozen: FrozenScene, frames: set[int]) -> Iterator[tuple[int, KnownVoxels]]:
    """Yield what the beams of a scene's training frames know about some of these frames."""
    config = LidarOccupancyConfig()
    silent = set(frozen.validation_frames)
    for frame, votes in votes_of_scene(scene, config, frames=frames, silent=silent, labelled=False):
        label = votes.voxel_label.reshape(-1)
        known = np.flatnonzero(label != OCC3D_UNKNOWN)
        yield frame, KnownVoxels(known, label[known] != OCC3D_FREE)


def lessons_of(
    home: Home,
    frozen: TrainingSet,
    dataset: FrameDataset,
    config: OccupancyFitConfig,
    sources: Sequence[str] = (),
    on_progress: ProgressCallback | None = None,
) -> dict[tuple[str, int], Lesson]:
    """Return what evenly spaced training frames teach, by scene and frame.

    Args:
        home: Home of the scenes.
        frozen: Their exact versions.
        dataset: The training samples of the same scenes.
        config: Number of frames, and who testifies.
        sources: Sources of the features that voxels are taught.
        on_progress: Called with the share done.

    Raises:
        IntegrityError: If a scene's store has lost data.
    """
    wanted = set(evenly_spaced(dataset.samples, config.max_frames))
    arrays = {source: dataset.config.feature_array(source) for source in sources}
    found: dict[tuple[str, int], Lesson] = {}
    for scene in frozen.scenes:
        frames = {frame for key, frame in wanted if key == scene.key}
        if not frames:
            continue
        version = scene.stores[Kind.SCENE]
        reader = SceneReader(home.open_arrays(version), version)
        witnesses = {
            source: FeatureWitnesses(reader, home.open_arrays(scene.stores[kind]), kind, array, scene.train_frames)
            for source, (kind, array) in arrays.items()
        }
        for frame, voxels in votes_to_learn_from(reader, scene, frames):
            occupied = voxels.flat[voxels.is_occupied]
            known = voxels
            if config.seen_through and len(voxels.flat):  # free space alone would teach that all is free
                known = voxels.also_free(seen_through(*dataset.with_depth(dataset.index_of[scene.key, frame])))
            features = {source: of.at(frame, occupied) for source, of in witnesses.items()}
            found[scene.key, frame] = Lesson(known, features, len(known.flat) - len(voxels.flat))
            if on_progress is not None:
                figures = {"step": 0, "frame": sample_key(scene.key, frame), "known": len(known.flat)}
                on_progress("beams", len(found) / len(wanted), figures)
    return found


def _share(lessons: Iterable[KnownVoxels]) -> float:
    known = [(len(voxels.flat), int(voxels.is_occupied.sum())) for voxels in lessons]
    return sum(occupied for _, occupied in known) / max(1, sum(number for number, _ in known))


def in_epochs(items: Sequence[Item], steps: int, generator: np.random.Generator) -> Iterator[Item]:
    """Yield an item for each step: all of them in random order, then all in another."""
    order: list[int] = []
    for _ in range(steps):
        order = order or generator.permutation(len(items)).tolist()
        yield items[order.pop()]


def _rate(config: OccupancyFitConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))


@torch.no_grad()
def _read(model: DistillNeRF, dataset: FrameDataset, index: int, device: torch.device) -> GridReading:
    return read_grid(model.encode(to_device(dataset.inputs(index), device)), OCC3D_GRID)


def _mirrored(lesson: Lesson) -> Lesson:
    there, order = mirrored_voxels(lesson.voxels.flat)
    voxels = KnownVoxels(there, lesson.voxels.is_occupied[order])
    return lesson._replace(voxels=voxels, features=mirrored_features(lesson.features))


def _feature_error(
    model: DistillNeRF,
    source: str,
    reading: GridReading,
    seen: Float[Tensor, "x y z width"],
    known: KnownFeatures,
) -> Float[Tensor, ""]:
    """Return the error of a source's voxel features in one frame."""
    if not len(reading.held):
        return seen.sum() * 0.0
    nearest = nearest_held(reading.held.cpu().numpy(), known.flat, OCC3D_GRID)
    device = seen.device
    of_known = seen.flatten(0, 2).index_select(0, torch.from_numpy(known.flat).to(device))
    return feature_error(model.voxel_features(source, reading, of_known, torch.from_numpy(nearest).to(device)), known)


def _means(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each entry; the same ones are in all of them."""
    return {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}
