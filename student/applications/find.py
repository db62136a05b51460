"""Find what a text says, or what looks like an example, in every image of every scene of a home."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import zarr
from jaxtyping import Bool, Float, Float32, Int, UInt8

from storage.errors import ErrorKind, MissingTargetError, ProvenanceMismatchError
from storage.kinds import features_kind
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_features
from storage.stores.versioned import Home
from student.applications.region_index import IndexedScene, RegionIndex, divide
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.vocabulary import Vocabulary

_ROWS_AT_ONCE = 1 << 13  # what a core's cache holds: larger parts take twice as long

_FIRST_LOOK = 4096
"""Best regions that are looked through first; most questions need no more."""


@runtime_checkable
class Question(Protocol):
    """What is looked for."""

    def score(self, reduced: Float32[np.ndarray, "n channels"]) -> Float[np.ndarray, " n"]:
        """Return how well reduced features answer; more is better."""
        ...

    def shown(self, score: float) -> float:
        """Return a score as people read it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextQuestion:
    """A text against its negatives.

    A score is the text's cosine less the negatives' joint one: it orders like the probability, which is what is shown,
    and goes on where that has come to 1.

    Attributes:
        vocabulary: The text first, then its negatives.
        temperature: Temperature of the softmax over them.
    """

    vocabulary: Vocabulary
    temperature: float

    def score(self, reduced: Float32[np.ndarray, "n channels"]) -> Float[np.ndarray, " n"]:
        """Return the margin of each feature."""
        cosine = self.vocabulary.cosine(reduced) / np.float32(self.temperature)
        others = cosine[:, 1:]
        peak = others.max(axis=1)
        return self.temperature * (cosine[:, 0] - peak - np.log(np.exp(others - peak[:, None]).sum(axis=1)))

    def shown(self, score: float) -> float:
        """Return the probability that a margin stands for."""
        return float(1.0 / (1.0 + np.exp(-score / self.temperature)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleQuestion:
    """One or more examples: their mean direction from the mean of all features.

    Attributes:
        basis: Basis of the features.
        direction: Unit vector in its coordinates.
    """

    basis: StoredFeatureBasis
    direction: Float[np.ndarray, " channels"]

    @classmethod
    def of(cls, basis: StoredFeatureBasis, examples: Float[np.ndarray, "examples channels"]) -> "ExampleQuestion":
        """Return the question for the reduced features of some examples.

        Raises:
            ValueError: If an example is undefined, or they cancel out.
        """
        pointed = basis.coordinates(examples)
        unit = pointed / np.linalg.norm(pointed, axis=1, keepdims=True)
        mean = unit.mean(axis=0)
        if not np.linalg.norm(mean) > 1e-6:  # false for a NaN too
            raise ValueError("the examples have no common direction: an undefined feature, or opposites")
        return cls(basis=basis, direction=mean / np.linalg.norm(mean))

    def score(self, reduced: Float32[np.ndarray, "n channels"]) -> Float[np.ndarray, " n"]:
        """Return the cosine with the examples, from the mean of all features."""
        coordinates = self.basis.coordinates(reduced)
        return coordinates @ self.direction / np.maximum(np.linalg.norm(coordinates, axis=1), 1e-6)

    def shown(self, score: float) -> float:
        """Return the cosine itself."""
        return score


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A pixel of a recorded image.

    Attributes:
        scene: Key of the scene.
        frame: Frame.
        camera: Name of the camera.
        u: Pixels from the left edge of the image as recorded.
        v: Pixels from its upper edge.
    """

    scene: str
    frame: int
    camera: str
    u: float
    v: float

    def __str__(self) -> str:
        return f"{self.scene}:{self.frame}:{self.camera}:{self.u:.0f},{self.v:.0f}"

    @classmethod
    def parse(cls, text: str) -> "Spot":
        """Read ``SCENE:FRAME:CAMERA:U,V``.

        Raises:
            ValueError: If the text has another form.
        """
        parts = text.split(":")
        try:
            scene, frame, camera, at = parts
            u, v = map(float, at.split(","))
            spot = cls(scene=scene, frame=int(frame), camera=camera, u=u, v=v)
        except ValueError:
            raise ValueError(f"{text!r}: want SCENE:FRAME:CAMERA:U,V, such as a.b:3:CAM_FRONT:120,80") from None
        return spot


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer.

    Attributes:
        spot: A pixel within its region; ``find --like`` takes it.
        score: Score as people read it: a probability, or a cosine.
        region: Cells of the image that answer.
        features: Digest of the features in which it was found.
    """

    spot: Spot
    score: float
    region: Bool[np.ndarray, "rows columns"]
    features: str


def feature_at(home: Home, index: RegionIndex, spot: Spot) -> Float32[np.ndarray, " channels"]:
    """Return the reduced feature of a pixel, from the features that are indexed.

    Raises:
        MissingTargetError: If the index lacks the scene.
        ProvenanceMismatchError: If another basis than the index's reduced its features.
        ValueError: If there is no such frame, camera or pixel, or nothing is known of it.
    """
    scene = index.scene_of(spot.scene)
    if scene is None:
        if spot.scene in index.left_out:
            message = f"its features were reduced by another basis than {index.basis_version}: extract them again"
            raise ProvenanceMismatchError(ErrorKind.DIGEST_MISMATCH, spot.scene, message)
        raise MissingTargetError(ErrorKind.TARGET_MISSING, spot.scene, f"is not in {index.version}")
    if not 0 <= spot.frame < scene.num_frames:
        raise ValueError(f"{spot}: {spot.scene} has frames 0 to {scene.num_frames - 1}")
    if spot.camera not in scene.camera_names:
        raise ValueError(f"{spot}: {spot.scene} has the cameras {', '.join(scene.camera_names)}")
    camera = scene.camera_names.index(spot.camera)
    maps = FeatureMaps(home, index)
    height, width = maps.image_size(scene, camera)
    if not (0 <= spot.u < width and 0 <= spot.v < height):
        raise ValueError(f"{spot}: the image is {width} pixels wide and {height} high")
    features = maps.of(scene, spot.frame, camera)
    feature = features[int(spot.v * features.shape[0] / height), int(spot.u * features.shape[1] / width)]
    if not np.isfinite(feature).all():
        raise ValueError(f"{spot}: the image shows nothing there")
    return feature


def find(
    home: Home,
    index: RegionIndex,
    question: Question,
    *,
    number: int,
    per_scene: int,
    scenes: Collection[str] = (),
    without: Collection[Spot] = (),
) -> list[Hit]:
    """Return the regions that answer best, one for each image, best first; see :func:`best_regions`.

    Args:
        home: Home of the index.
        index: The index.
        question: What is looked for.
        number: Answers wanted.
        per_scene: Most of them in one scene.
        scenes: Keys of the scenes to look in; by default all.
        without: Images that are left out, such as those of the examples.

    Raises:
        MissingTargetError: If the index lacks one of the scenes, or its features were deleted.
    """
    rows, scores = best_regions(index, question, number=number, per_scene=per_scene, scenes=scenes, without=without)
    maps = FeatureMaps(home, index)
    return [_hit(index, maps, row, question.shown(score)) for row, score in zip(rows, scores, strict=True)]


def best_regions(
    index: RegionIndex,
    question: Question,
    *,
    number: int,
    per_scene: int,
    scenes: Collection[str] = (),
    without: Collection[Spot] = (),
) -> tuple[list[int], list[float]]:
    """Return the rows of the regions that answer best, one for each image, best first, and their scores.

    Every region is compared; nothing is approximated.

    Raises:
        MissingTargetError: If the index lacks one of the scenes.
    """
    for key in scenes:
        if index.scene_of(key) is None:
            raise MissingTargetError(ErrorKind.TARGET_MISSING, key, f"is not in {index.version}")
    scores = score_all(index, question)
    if scenes:
        allowed = np.array([scene.key in set(scenes) for scene in index.scenes])
        scores[~allowed[index.scene_at(np.arange(index.num_rows))]] = -np.inf
    images = {(spot.scene, spot.frame, spot.camera) for spot in without}
    rows = _best_rows(index, scores, number, per_scene, images)
    return rows, scores[rows].tolist()


class FeatureMaps:
    """Features and image sizes behind the rows of an index; each store is opened once."""

    def __init__(self, home: Home, index: RegionIndex) -> None:
        self._home, self._index = home, index
        self._kind = features_kind(index.source)
        self._features = lru_cache(maxsize=None)(self._open_features)
        self._scene = lru_cache(maxsize=None)(self._open_scene)

    def of(self, scene: IndexedScene, frame: int, camera: int) -> Float32[np.ndarray, "height width channels"]:
        """Return the reduced features of an image.

        Raises:
            MissingTargetError: If they were deleted.
        """
        return read_features(self._features(scene), self._kind, (frame, camera))

    def image_size(self, scene: IndexedScene, camera: int) -> tuple[int, int]:
        """Return height and width of a camera's images as recorded."""
        return self._scene(scene).image_size(camera)

    def _open_features(self, scene: IndexedScene) -> zarr.Group:
        return self._home.open_arrays(self._home.require(self._kind, scene.key, scene.features))

    def _open_scene(self, scene: IndexedScene) -> SceneReader:
        return SceneReader.open(self._home, scene.key, scene.scene)


def score_all(index: RegionIndex, question: Question) -> Float32[np.ndarray, " regions"]:
    """Return the score of every region of an index, on all cores."""
    scores = np.empty(index.num_rows, np.float32)
    with ThreadPoolExecutor() as threads:
        for start, features in index.chunks():
            parts = [features[at : at + _ROWS_AT_ONCE] for at in range(0, len(features), _ROWS_AT_ONCE)]
            scored = threads.map(lambda part: question.score(as_features(part)), parts)
            scores[start : start + len(features)] = np.concatenate(list(scored))
    return scores


def as_features(stored: UInt8[np.ndarray, "n channels"]) -> Float32[np.ndarray, "n channels"]:
    """Return the reduced features that bytes of an index stand for."""
    return stored.astype(np.float32) * np.float32(1 / 255)


def _best_rows(
    index: RegionIndex,
    scores: Float32[np.ndarray, " regions"],
    number: int,
    per_scene: int,
    without: set[tuple[str, int, str]],
) -> list[int]:
    looked = min(_FIRST_LOOK, len(scores))
    while True:
        best = np.argpartition(-scores, looked - 1)[:looked]
        best = best[np.lexsort((best, -scores[best]))]  # equal scores in the order of the index
        best = best[scores[best] > -np.inf]
        chosen = _choose(index, best, number, per_scene, without)
        if len(chosen) == number or looked == len(scores):
            return chosen
        looked = min(8 * looked, len(scores))


def _choose(
    index: RegionIndex,
    rows: Int[np.ndarray, " n"],
    number: int,
    per_scene: int,
    without: set[tuple[str, int, str]],
) -> list[int]:
    chosen: list[int] = []
    images, counts = set(without), dict.fromkeys(range(len(index.scenes)), 0)
    places = index.places_of(rows)
    for row, scene, (frame, camera, _) in zip(
        rows.tolist(), index.scene_at(rows).tolist(), places.tolist(), strict=True
    ):
        image = (index.scenes[scene].key, frame, index.scenes[scene].camera_names[camera])
        if image in images or counts[scene] == per_scene:
            continue
        images.add(image)
        counts[scene] += 1
        chosen.append(row)
        if len(chosen) == number:
            break
    return chosen


def _hit(index: RegionIndex, maps: FeatureMaps, row: int, score: float) -> Hit:
    scene = index.scenes[int(index.scene_at(np.array([row]))[0])]
    frame, camera, region = index.places_of(np.array([row]))[0].tolist()
    labels, _ = divide(maps.of(scene, frame, camera), index.basis, index.config)
    cells = labels == region
    rows, columns = np.nonzero(cells)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)  # its centre may lie outside of it
    height, width = maps.image_size(scene, camera)
    u, v = (columns[middle] + 0.5) * width / cells.shape[1], (rows[middle] + 0.5) * height / cells.shape[0]
    spot = Spot(scene=scene.key, frame=frame, camera=scene.camera_names[camera], u=float(int(u)), v=float(int(v)))
    return Hit(spot=spot, score=score, region=cells, features=scene.features)
