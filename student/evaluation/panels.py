"""Paint one camera of one held-out frame as truth, teacher and student see it, on shared scales."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from storage.geometry.resize import resize_nearest
from storage.previews.pictures import (
    FeatureColours,
    depth_image,
    encode_image,
    heat_overlay,
    label_image,
    resize_smoothly,
    to_uint8,
    unit_image,
)
from storage.taxonomy import NUM_OCC3D_CLASSES, SKY_ID
from student.data.sample import TrainingBatch
from student.evaluation.frames import EvaluationFrames, EvaluationTruth, channels_last, view_images
from student.evaluation.from_above import VoxelsOfFrame, pictures_from_above
from student.evaluation.results import Panel, Tile
from student.inference.predictor import RenderedViews
from student.inference.prompts import ids_of_word
from student.inference.vocabulary import Vocabulary

_FROM_ABOVE = "Occupancy from above"

COLUMNS = ("image", "depth", "sky", "semantics", "features", "query")

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Words with which features are asked.

    Attributes:
        classes: Occ3D classes and the sky.
        query: The queried text first, then its negatives.
        temperature: Temperature of the softmax over classes or query.
    """

    classes: Vocabulary
    query: Vocabulary
    temperature: float

    def labels(
        self, features: Float32[np.ndarray, "grid_height grid_width channels"]
    ) -> UInt8[np.ndarray, "grid_height grid_width"]:
        """Return the class of every pixel, as an id that :func:`label_image` knows."""
        best = self.classes.probability(features, self.temperature).argmax(axis=-1)
        return np.where(best == NUM_OCC3D_CLASSES, SKY_ID, best).astype(np.uint8)

    def heat(
        self, features: Float32[np.ndarray, "grid_height grid_width channels"]
    ) -> Float[np.ndarray, "grid_height grid_width"]:
        """Return the probability of the query at every pixel."""
        return self.query.probability(features, self.temperature)[..., 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Painter:
    """Writes the pictures of an evaluation.

    Attributes:
        folder: Folder of the evaluation; pictures go to its subfolder ``panels``.
        width: Width of each picture, pixels.
        words: Words to ask features with; None without CLIP features.
    """

    folder: Path
    width: int
    words: Words | None

    def paint(
        self,
        frames: EvaluationFrames,
        frame: int,
        camera: int,
        *,
        batch: TrainingBatch,
        views: RenderedViews,
        truth: EvaluationTruth | None,
    ) -> Panel:
        """Write the pictures of one camera and return their arrangement.

        Args:
            frames: Frames of the scene.
            frame: Index of the frame.
            camera: Index of the camera.
            batch: The frame with every camera as target.
            views: Views of the same cameras, rendered by the student.
            truth: The true world; None for a recording.
        """
        name = f"{frames.key}-{frame:06d}-{frames.camera_names[camera]}"
        image = to_uint8(view_images(batch)[camera])
        source, stored = _teacher_features(batch, views)
        colours = None if stored is None else FeatureColours.fit(stored.reshape(-1, stored.shape[-1]))
        clip = batch.view_targets.features.get("clip")
        rows = (
            ("truth", _truth_pictures(batch, camera, image, truth, self.words)),
            (
                "teacher",
                {
                    **_teacher_pictures(frames, frame, batch, camera),
                    **_feature_pictures(colours, None if stored is None else stored[camera], source),
                    **self._word_pictures(image, None if clip is None else channels_last(clip[0])[camera]),
                },
            ),
            (
                "student",
                {
                    **_student_pictures(views, camera),
                    **_feature_pictures(colours, _one(views.features.get(source), camera), source),
                    **self._word_pictures(image, _one(views.features.get("clip"), camera)),
                },
            ),
        )
        shown = [column for column in COLUMNS if any(column in pictures for _, pictures in rows)]
        height = round(self.width * image.shape[0] / image.shape[1])
        tiles = tuple(
            (title, tuple(self._tile(f"{name}-{title}", column, pictures, height) for column in shown))
            for title, pictures in rows
        )
        return Panel(scene=frames.key, frame=frame, camera=frames.camera_names[camera], rows=tiles)

    def paint_from_above(self, frames: EvaluationFrames, frame: int, voxels: VoxelsOfFrame) -> Panel:
        """Write the pictures of a frame's occupancy and return their arrangement."""
        pictures = pictures_from_above(voxels)
        name = f"{frames.key}-{frame:06d}-{_FROM_ABOVE}".replace(" ", "-")
        tiles = tuple(self._tile(name, column, pictures, self.width) for column in pictures)
        return Panel(scene=frames.key, frame=frame, camera=_FROM_ABOVE, rows=(("occupancy", tiles),))

    def _tile(self, name: str, column: str, pictures: dict[str, tuple[Picture, str]], height: int) -> Tile:
        if column not in pictures:
            return Tile(column=column, path="", caption="not available")
        picture, caption = pictures[column]
        path = Path("panels") / f"{name}-{column.replace(' ', '-')}.jpg"
        (self.folder / path).parent.mkdir(exist_ok=True)
        resize = resize_smoothly if column in {"image", "query"} else resize_nearest
        (self.folder / path).write_bytes(encode_image(resize(picture, height, self.width)))
        return Tile(column=column, path=str(path), caption=caption)

    def _word_pictures(
        self, image: Picture, clip: Float32[np.ndarray, "grid_height grid_width channels"] | None
    ) -> dict[str, tuple[Picture, str]]:
        if self.words is None or clip is None:
            return {}
        heat = resize_nearest(self.words.heat(clip), *image.shape[:2])
        peak = float(np.nanmax(heat))
        return {
            "semantics": (label_image(self.words.labels(clip)), "nearest words"),
            "query": (
                heat_overlay(image, heat / max(peak, 1e-6)),
                f"“{self.words.query.prompts.names[0]}”, peak probability {peak:.0%}",
            ),
        }


def cameras_around(camera_to_ego: Float[np.ndarray, "cameras 4 4"], count: int) -> list[int]:
    """Return up to so many cameras of a rig, evenly around it; the one that looks most straight ahead comes first."""
    heading = np.arctan2(camera_to_ego[:, 1, 2], camera_to_ego[:, 0, 2])
    ahead = heading[np.abs(heading).argmin()]
    around = np.argsort(np.mod(heading - ahead + 1e-9, 2 * np.pi), kind="stable")
    count = min(count, len(around))
    return [int(around[place * len(around) // count]) for place in range(count)]


def _truth_pictures(
    batch: TrainingBatch, camera: int, image: Picture, truth: EvaluationTruth | None, words: Words | None
) -> dict[str, tuple[Picture, str]]:
    pictures = {"image": (image, "camera")}
    if truth is None:
        lidar = batch.view_targets.lidar_depth[0, camera].numpy()
        if not np.isfinite(lidar).any():
            return pictures
        return pictures | {"depth": (depth_image(_thickened(lidar)), "LiDAR returns, each drawn larger")}
    semantics = truth.semantics[camera]
    pictures |= {
        "depth": (depth_image(truth.termination_depth[camera]), "exact"),
        "sky": (unit_image((semantics == SKY_ID).astype(np.float32)), "exact"),
        "semantics": (label_image(semantics), "exact"),
    }
    if words is not None:
        asked = ids_of_word(words.query.prompts.names[0])
        if asked:
            is_asked = resize_nearest(np.isin(semantics, asked).astype(np.float32), *image.shape[:2])
            pictures["query"] = (heat_overlay(image, is_asked), "exact")
    return pictures


def _teacher_pictures(
    frames: EvaluationFrames, frame: int, batch: TrainingBatch, camera: int
) -> dict[str, tuple[Picture, str]]:
    targets = batch.view_targets
    pictures: dict[str, tuple[Picture, str]] = {}
    if frames.has_virtual_views:
        pictures["image"] = (frames.stores.virtual_views(frame)[0][camera, 0], "rendered at its first moved pose")
    if frames.config.teacher_depth:
        pictures["depth"] = (depth_image(targets.teacher_depth[0, camera].numpy()), "per-scene field")
    if frames.config.sky_masks:
        is_sky = targets.is_sky[0, camera].numpy().astype(np.float32)
        pictures["sky"] = (unit_image(is_sky), "segmenter")
    return pictures


def _student_pictures(views: RenderedViews, camera: int) -> dict[str, tuple[Picture, str]]:
    pictures = {
        "depth": (depth_image(views.termination_depth[camera]), "rendered"),
        "sky": (unit_image(1.0 - views.opacity[camera]), "1 - opacity"),
    }
    if views.image is not None:
        pictures["image"] = (to_uint8(views.image[camera]), "rendered")
    return pictures


def _teacher_features(
    batch: TrainingBatch, views: RenderedViews
) -> tuple[str, Float32[np.ndarray, "views grid_height grid_width channels"] | None]:
    """Return the feature source to show, preferably one that the student renders, and its stored maps."""
    stored = batch.view_targets.features
    source = next((s for s in (*views.features, *stored) if s in stored), "")
    return source, channels_last(stored[source][0]) if source else None


def _feature_pictures(
    colours: FeatureColours | None, features: Float32[np.ndarray, "grid_height grid_width channels"] | None, source: str
) -> dict[str, tuple[Picture, str]]:
    if colours is None or features is None:
        return {}
    return {"features": (colours.image(features), source)}


def _one(
    maps: Float32[np.ndarray, "views grid_height grid_width channels"] | None, camera: int
) -> Float32[np.ndarray, "grid_height grid_width channels"] | None:
    return None if maps is None else maps[camera]


def _thickened(depth: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Return a sparse map with every return spread to its neighbouring pixels, nearest first, for visibility."""
    padded = np.pad(np.where(np.isfinite(depth), depth, np.inf), 1, constant_values=np.inf)
    height, width = depth.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    grown = np.min(shifted, axis=0)
    return np.where(np.isfinite(grown), grown, np.nan).astype(np.float32)
