"""What bounds the words of a student: its field, the head that reads it, or its teacher?

``python -m student.experiments.words_of_places HOME TRAINING_SET --student FOLDER`` takes the places where the rays of
held-out procedural images end, one for each voxel, and names each by what the student's field holds there and by what
the teacher's map shows there. Geometry is exact, so that words are judged alone. ``--widths 32 128`` also fits new
heads of these hidden widths to what the field holds at places of the training scenes: where a new head finds more than
the student's own, the field knows more than its head tells.
"""

import json
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from storage.geometry.rays import camera_rays
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home
from storage.taxonomy import NUM_OCC3D_CLASSES, OCC3D_NAMES
from student.config import FeatureHeadFitConfig
from student.data.dataset import FrameDataset
from student.data.evenly_spaced import evenly_spaced
from student.data.training_set import FrozenScene, TrainingSet, load_training_set
from student.inference.occupancy import SemanticCounts
from student.inference.predictor import Predictor
from student.inference.prompts import DEFAULT_TEMPLATE
from student.inference.vocabulary import Vocabulary, best_voxel_class, clip_space_of, occ3d_vocabulary
from student.losses.terms import squared_error
from student.metrics import average_precision
from student.model.config import FeatureHeadConfig
from student.model.decoder import FeatureHead
from student.training.feature_heads import descend

logger = logging.getLogger("student.experiments.words_of_places")

_SOURCE = "clip"
_MIN_PLACES = 20
"""Fewest places of a class whose average precision counts."""
_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Places of one frame, one a voxel.

    Attributes:
        field: What the student's field holds there, before any head.
        teacher: Stored features of the teacher at the pixel that ends there.
        labels: True class.
    """

    field: Float32[np.ndarray, "places channels"]
    teacher: Float32[np.ndarray, "places stored"]
    labels: UInt8[np.ndarray, " places"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordScores:
    """How well places are named.

    Attributes:
        mean_iou: Mean over the classes that are true or said somewhere.
        mean_precision: Mean average precision of the classes with enough places; NaN if there is none.
        iou: IoU by class.
        precision: Average precision by class.
    """

    mean_iou: float
    mean_precision: float
    iou: Mapping[str, float]
    precision: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class WordsOfPlaces:
    """Judge the words of a student at the true places of held-out procedural images.

    Attributes:
        home: Home of the scenes.
        training_set: Name of the training set; its held-out frames are judged.
        student: Folder of the checkpoint.
        widths: Hidden widths of the heads that are fitted anew; none by default.
        steps: Optimisation steps of each.
        train_frames: Number of training frames that they learn from.
        every: Every so many-th held-out frame of a scene is judged.
        stride: Every so many-th row and column of the true images.
        output: File for the scores as JSON; None prints them alone.
    """

    home: Annotated[Path, tyro.conf.Positional]
    training_set: Annotated[str, tyro.conf.Positional]
    student: Path
    widths: tuple[int, ...] = ()
    steps: int = 2500
    train_frames: int = 80
    every: int = 2
    stride: int = 5
    output: Path | None = None

    def run(self) -> dict[str, WordScores]:
        """Judge, write and return the scores of the student, of new heads and of the teacher.

        Raises:
            ValueError: If the training set holds no frame out.
        """
        home = Home(self.home, store_url=store_url_from_environment())
        frozen = load_training_set(home, self.training_set)
        space = clip_space_of(home, frozen)
        vocabulary = occ3d_vocabulary(space, DEFAULT_TEMPLATE)
        predictor = Predictor.from_folder(self.student)
        held_out = [(s, f) for s in frozen.scenes for f in s.validation_frames[:: self.every]]
        if not held_out:
            raise ValueError(f"training set {self.training_set!r} holds no frame out, so there is nothing to judge by")
        judged = _joined(self._places(home, frozen, predictor, "validation", held_out))
        heads = {"student": predictor.model.feature_heads[_SOURCE]}
        if self.widths:
            frames = [(s, f) for s in frozen.scenes for f in s.train_frames]
            some = list(evenly_spaced(frames, self.train_frames))
            learned = _joined(self._places(home, frozen, predictor, "train", some))
            heads |= {f"new head, {width}": fit_head(learned, width, steps=self.steps) for width in self.widths}
        features = {name: _read(head, judged.field) for name, head in heads.items()} | {"teacher": judged.teacher}
        scores = {
            name: _score(vocabulary, values, judged.labels, space.encoder.temperature)
            for name, values in features.items()
        }
        if self.output is not None:
            self.output.write_text(json.dumps({n: asdict(s) for n, s in scores.items()}, indent=1) + "\n")
        return scores

    def _places(
        self,
        home: Home,
        frozen: TrainingSet,
        predictor: Predictor,
        split: Literal["train", "validation"],
        frames: list[tuple[FrozenScene, int]],
    ) -> Iterator[Places]:
        data = FrameDataset(home, frozen, split, predictor.config.data)
        for scene, frame in frames:
            yield self._places_of(home, scene, frame, predictor, data, data.index_of[scene.key, frame])

    @torch.inference_mode()
    def _places_of(
        self, home: Home, scene: FrozenScene, frame: int, predictor: Predictor, data: FrameDataset, sample: int
    ) -> Places:
        version = scene.stores[Kind.SCENE]
        reader = SceneReader(home.open_arrays(version), version)
        truth: Any = home.open_arrays(home.require(Kind.SCENE_TRUTH, scene.key))
        depths = read_target(truth, Kind.SCENE_TRUTH, "termination_depth", frame)
        semantics = read_target(truth, Kind.SCENE_TRUTH, "semantics", frame)
        kind, array = data.config.feature_array(_SOURCE)
        maps = read_target(home.open_arrays(scene.stores[kind]), kind, array, frame)
        order, cut = truth.attrs["camera_names"], slice(self.stride // 2, None, self.stride)
        points, labels, shown = [], [], []
        for camera, name in enumerate(reader.camera_names):
            if np.isfinite(reader.fisheye(camera)).any():
                continue  # a fisheye's pixels are no even sample of places
            depth, label = (values[order.index(name)][cut, cut] for values in (depths, semantics))
            pose = reader.camera_to_reference_ego(frame, camera)
            height, width = depth.shape
            origins, directions = camera_rays(
                reader.intrinsics(camera, size=depth.shape), pose, height=height, width=width
            )
            ends = origins + directions * depth[..., None]
            known = np.isfinite(depth) & (label < NUM_OCC3D_CLASSES)
            rows, columns = (
                ((np.arange(have) + 0.5) / have * want).astype(int)
                for have, want in zip(depth.shape, maps.shape[1:3], strict=True)
            )
            points.append(ends[known])
            labels.append(label[known])
            shown.append(maps[camera][rows][:, columns][known])
        ends, label, teacher = (np.concatenate(parts) for parts in (points, labels, shown))
        index, is_inside = OCC3D_GRID.index_of(ends)
        inside = np.flatnonzero(is_inside)
        _, first = np.unique(index[inside], axis=0, return_index=True)
        kept = inside[first]
        field = predictor.encode(data.inputs(sample))
        density, features = field.query(torch.from_numpy(ends[kept]).float()[None])
        filled = density[0].numpy() > 0
        return Places(
            field=features[0].numpy()[filled],
            teacher=teacher[kept][filled].astype(np.float32),
            labels=label[kept][filled],
        )


def fit_head(places: Places, hidden_width: int, *, steps: int, seed: int = 0) -> FeatureHead:
    """Return a head that was fitted to tell a teacher's features by what a field holds, which stays as it is."""
    torch.manual_seed(seed)
    given, wanted = torch.from_numpy(places.field), torch.from_numpy(places.teacher)
    config = FeatureHeadConfig(source=_SOURCE, channels=wanted.shape[1], hidden_width=hidden_width)
    head = FeatureHead(config, given.shape[1])

    def loss() -> Tensor:
        chosen = torch.randint(len(given), (_BATCH,))
        return squared_error(head(given[chosen]), wanted[chosen])[0]

    deque(descend(head, loss, steps=steps, learning_rate=FeatureHeadFitConfig().learning_rate), maxlen=0)
    return head


@torch.inference_mode()
def _read(head: torch.nn.Module, field: Float32[np.ndarray, "places channels"]) -> Float32[np.ndarray, "places stored"]:
    return head(torch.from_numpy(field)).numpy()


def _joined(parts: Iterator[Places]) -> Places:
    every = list(parts)
    return Places(
        field=np.concatenate([part.field for part in every]),
        teacher=np.concatenate([part.teacher for part in every]),
        labels=np.concatenate([part.labels for part in every]),
    )


def _score(
    vocabulary: Vocabulary,
    features: Float[np.ndarray, "places stored"],
    labels: UInt8[np.ndarray, " places"],
    temperature: float,
) -> WordScores:
    cosine = vocabulary.cosine(features)
    counts = SemanticCounts.of(best_voxel_class(cosine), labels)
    iou = {OCC3D_NAMES[c]: float(v) for c, v in enumerate(counts.iou_per_class()) if np.isfinite(v)}
    probability = vocabulary.probability(features, temperature)[:, :NUM_OCC3D_CLASSES]
    precision = {
        OCC3D_NAMES[c]: average_precision(probability[:, c], labels == c)
        for c in range(NUM_OCC3D_CLASSES)
        if (labels == c).sum() >= _MIN_PLACES
    }
    return WordScores(
        mean_iou=counts.mean_iou(range(NUM_OCC3D_CLASSES))[0],
        mean_precision=float(np.mean(list(precision.values()))) if precision else float("nan"),
        iou=iou,
        precision=precision,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for who, found in tyro.cli(WordsOfPlaces).run().items():
        words = ", ".join(f"{name} {value:.2f}" for name, value in found.precision.items())
        logger.info("%s: mIoU %.3f, mAP %.3f (%s)", who, found.mean_iou, found.mean_precision, words)
