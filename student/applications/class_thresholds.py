"""Choose the thresholds of own classes on what is known to be right: truth of training frames, or human verdicts.

A threshold is the probability from which something is called by the class's name. A softmax over many words is low for
a small or rare thing even where it is found, so that one number for all classes finds nothing or everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from storage.errors import ErrorKind, MissingTargetError
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import VOID_ID, class_named
from student.applications.deployment import DeployedStudent
from student.applications.label_sheet import read_verdicts
from student.data.evenly_spaced import evenly_spaced
from student.evaluation.frames import EvaluationFrames, evaluation_scenes
from student.inference.class_list import ClassList
from student.inference.vocabulary import Vocabulary
from student.metrics import average_precision

_MAX_PIXELS_PER_FRAME = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChoice:
    """What a threshold reaches.

    Attributes:
        threshold: The threshold; None where none is precise enough.
        precision: Share of what is above it that is of the class, where it was chosen.
        recall: Share of the class that is above it; NaN where that is not known.
        count: Samples of the class that it was chosen on.
        held_out: Figures on held-out frames: average precision, and precision and recall at the threshold. None without
            any.
    """

    threshold: float | None
    precision: float
    recall: float
    count: int
    held_out: Mapping[str, float] | None = None


def best_f1_threshold(
    probability: Float[np.ndarray, " n"], is_class: Bool[np.ndarray, " n"], *, min_precision: float = 0.0
) -> ThresholdChoice:
    """Return the threshold with the largest F1 among those that are precise enough."""
    total = int(is_class.sum())
    if not total:
        return ThresholdChoice(threshold=None, precision=float("nan"), recall=float("nan"), count=0)
    ranked, precision, hits = _at_cuts(probability, is_class)
    recall = hits / total
    f1 = np.where(precision >= min_precision, 2 * precision * recall / np.maximum(precision + recall, 1e-12), -1.0)
    best = int(f1.argmax())
    return _chosen(ranked, precision, recall, best, total, is_found=bool(f1[best] > 0))


def lowest_precise_threshold(
    probability: Float[np.ndarray, " n"], is_right: Bool[np.ndarray, " n"], *, min_precision: float
) -> ThresholdChoice:
    """Return the lowest threshold above which enough is right.

    It is for a sample of what was called by the class's name, which tells nothing of what was missed.
    """
    nothing = ThresholdChoice(threshold=None, precision=float("nan"), recall=float("nan"), count=len(is_right))
    if not len(is_right):
        return nothing
    ranked, precision, _ = _at_cuts(probability, is_right)
    enough = np.flatnonzero(precision >= min_precision)
    if not len(enough):
        return nothing
    return _chosen(ranked, precision, np.full(len(ranked), np.nan), int(enough[-1]), len(is_right), is_found=True)


def _at_cuts(
    probability: Float[np.ndarray, " n"], is_class: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " cuts"], Float[np.ndarray, " cuts"], Float[np.ndarray, " cuts"]]:
    """Return every threshold, descending, with the precision and the hits above it; equal values are one cut."""
    order = np.argsort(-probability.astype(np.float64), kind="stable")
    ranked = probability[order].astype(np.float64)
    is_cut = np.append(ranked[1:] != ranked[:-1], True)
    hits = np.cumsum(is_class[order])[is_cut].astype(np.float64)
    return ranked[is_cut], hits / np.arange(1, len(ranked) + 1)[is_cut], hits


def _chosen(
    ranked: Float[np.ndarray, " cuts"],
    precision: Float[np.ndarray, " cuts"],
    recall: Float[np.ndarray, " cuts"],
    at: int,
    count: int,
    *,
    is_found: bool,
) -> ThresholdChoice:
    usable = is_found and 0 < ranked[at] < 1
    return ThresholdChoice(
        threshold=float(ranked[at]) if usable else None,
        precision=float(precision[at]) if usable else float("nan"),
        recall=float(recall[at]) if usable else float("nan"),
        count=count,
    )


@dataclass(slots=True)
class _Pixels:
    """Probability of each class and truth of some pixels."""

    probability: list[np.ndarray] = field(default_factory=list)
    semantics: list[np.ndarray] = field(default_factory=list)

    def of(self, column: int, truth: Iterable[int]) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Return a class's probability and where it is true."""
        return np.concatenate(self.probability)[:, column], np.isin(np.concatenate(self.semantics), list(truth))


def choose_on_truth(
    home: Home,
    variant: str,
    classes: ClassList,
    *,
    min_precision: float = 0.0,
    frames_per_scene: int = 4,
    seed: int = 0,
    text_encoder: str = "",
    on_progress: ProgressCallback | None = None,
) -> tuple[dict[str, ThresholdChoice], DeployedStudent]:
    """Choose thresholds on the pixels of training frames with exact truth, and score them on held-out frames.

    Args:
        home: Home of the student and its scenes.
        variant: Variant of a student that renders CLIP features.
        classes: The classes; their ``truth`` says what they are in the procedural world.
        min_precision: Smallest precision of a threshold.
        frames_per_scene: Training frames, and held-out frames, of each scene, evenly spaced.
        seed: Seed of the choice of pixels.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        on_progress: Function called after every frame.

    Returns:
        The choice for each class, and the student.

    Raises:
        MissingTargetError: If the student is missing, or no training scene has exact truth.
    """
    student = DeployedStudent.open(home, variant, text_encoder=text_encoder)
    vocabulary = Vocabulary.of(student.space, classes.prompts)
    scenes = [scene for scene in evaluation_scenes(home, student.training_set) if scene.truth is not None]
    plan = [
        (EvaluationFrames(home, student.training_set, scene, student.predictor.config.data), frame, is_held_out)
        for scene in scenes
        for is_held_out, frames in ((False, scene.frozen.train_frames), (True, scene.frozen.validation_frames))
        for frame in evenly_spaced(frames, frames_per_scene)
    ]
    pixels = {False: _Pixels(), True: _Pixels()}
    for done, (frames, frame, is_held_out) in enumerate(plan, start=1):
        _read(student, vocabulary, frames, frame, pixels[is_held_out], np.random.default_rng((seed, done)))
        if on_progress is not None:
            on_progress("pixels", done / len(plan), {"scene": frames.key, "frame": frame})
    if not pixels[False].semantics:
        raise MissingTargetError(
            ErrorKind.TARGET_MISSING, "scene_truth", f"no training scene of {student.checkpoint} has exact truth"
        )
    first = vocabulary.num_classes - len(classes.classes)
    choices = {}
    for column, entry in enumerate(classes.classes, start=first):
        truth = [class_named(name).class_id for name in entry.truth]
        choice = best_f1_threshold(*pixels[False].of(column, truth), min_precision=min_precision)
        scored = _held_out(pixels[True], column, truth, choice.threshold) if pixels[True].semantics else None
        choices[entry.name] = ThresholdChoice(
            threshold=choice.threshold,
            precision=choice.precision,
            recall=choice.recall,
            count=choice.count,
            held_out=scored,
        )
    return choices, student


def choose_on_verdicts(
    home: Home, variant: str, classes: ClassList, *, min_precision: float
) -> tuple[dict[str, ThresholdChoice], StoreVersion]:
    """Choose thresholds on what people said of the student's labels: the lowest one that is precise enough.

    Labels are judged that were given with some threshold; a lower one cannot be chosen on them.

    Raises:
        MissingTargetError: If nobody judged labels of the student.
    """
    verdicts = home.require(Kind.LABEL_VERDICTS, variant)
    judged = [(name, p, said == "right") for name, p, said in read_verdicts(home, verdicts) if said != "unsure"]
    choices = {}
    for entry in classes.classes:
        own = [(p, is_right) for name, p, is_right in judged if name == entry.name]
        probability, right = np.array([p for p, _ in own]), np.array([is_right for _, is_right in own], bool)
        choices[entry.name] = lowest_precise_threshold(probability, right, min_precision=min_precision)
    return choices, verdicts


def _read(
    student: DeployedStudent,
    vocabulary: Vocabulary,
    frames: EvaluationFrames,
    frame: int,
    pixels: _Pixels,
    generator: np.random.Generator,
) -> None:
    truth = frames.truth(frame)
    if truth is None:
        return
    batch = frames.camera_views(frame)
    views = student.predictor.render(student.predictor.encode(batch.inputs), batch.cameras)
    known = np.flatnonzero((truth.semantics != VOID_ID) & views.is_seen)
    chosen = generator.choice(known, min(len(known), _MAX_PIXELS_PER_FRAME), replace=False)
    features = views.features["clip"].reshape(-1, views.features["clip"].shape[-1])[chosen]
    pixels.probability.append(np.nan_to_num(vocabulary.probability(features, student.point.temperature)))
    pixels.semantics.append(truth.semantics.reshape(-1)[chosen])


def _held_out(pixels: _Pixels, column: int, truth: Sequence[int], threshold: float | None) -> dict[str, float]:
    probability, is_class = pixels.of(column, truth)
    above = probability >= (np.inf if threshold is None else threshold)
    hits = float((above & is_class).sum())
    return {
        "average_precision": average_precision(probability, is_class) if is_class.any() else float("nan"),
        "chance": float(is_class.mean()),
        "precision": hits / above.sum() if above.any() else float("nan"),
        "recall": hits / is_class.sum() if is_class.any() else float("nan"),
        "shown_share": float(above.mean()),
    }
