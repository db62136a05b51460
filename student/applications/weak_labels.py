"""Label a scene's voxels and pixels with a student. The labels are stored with a record of how they were made.

The training set refuses them as targets; they are a start for labelling data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Float16, UInt8

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.stores.arrays import create_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays
from storage.taxonomy import NUM_OCC3D_CLASSES, OCC3D_FREE, OCC3D_NAMES, OCC3D_UNKNOWN, SKY_ID, VOID_ID
from student.applications.deployment import DeployedStudent, FrameReading
from student.evaluation.config import WeakLabelConfig
from student.evaluation.frames import EvaluationFrames
from student.inference.class_list import ClassList, load_class_list
from student.inference.open_vocabulary import class_probability
from student.inference.prompts import occ3d_prompts
from student.inference.vocabulary import Vocabulary

KIND = Kind.WEAK_LABELS


def export_weak_labels(
    home: Home,
    scene_key: SceneKey,
    variant: str,
    config: WeakLabelConfig,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Return a student's labels of a scene, making them first if they do not exist.

    Voxels have Occ3D labels (17 is free, 255 is not seen by any camera) and the probability that the label is right:
    that the voxel is occupied and of that class, or that it is free. It is NaN where not seen. Pixels have the most
    probable class (255 is sky; 254 is outside a fisheye's image circle, or the vehicle itself) and its probability, on
    the student's render grid. Own classes have labels from 18 on; see :func:`choose_labels` for their thresholds.

    Args:
        home: Home of the student and the scene.
        scene_key: Key of the scene, which need not be one of the training scenes.
        variant: Variant of a student that renders CLIP features.
        config: Configuration of the labels.
        on_progress: Function called after every frame.

    Raises:
        MissingTargetError: If the student or a store of the scene is missing, or the student renders no CLIP features.
        ProvenanceMismatchError: If the scene's stores were made from different versions of it.
        SourceDataError: If the list of classes is missing or damaged.
    """
    classes = load_class_list(config.classes) if config.classes else None
    student = DeployedStudent.open(
        home,
        variant,
        checkpoint_digest=config.checkpoint_digest,
        device=config.device,
        text_encoder=config.text_encoder,
        default_threshold=config.default_threshold,
    )
    frames = student.frames(scene_key)
    provenance = _provenance(home, student, frames, config, classes)

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return _Labeller(group, student, frames, config, classes).run(on_progress)

    return materialize_arrays(home, provenance, write)


def choose_labels(
    probability: Float[np.ndarray, "*shape classes"], labels: Sequence[int], thresholds: Sequence[float | None]
) -> tuple[UInt8[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Return the label of each row and its probability.

    A class with a threshold is chosen where its probability reaches it; of several, that which exceeds its own the
    most. Where none does, the most probable of the classes without a threshold is chosen.

    Args:
        probability: Probability of each class.
        labels: Label of each class.
        thresholds: Threshold of each class; None where none was chosen.
    """
    least = np.array([np.inf if threshold is None else threshold for threshold in thresholds])
    excess = probability / least
    others = np.where(np.isinf(least), probability, -1.0)
    chosen = np.where(excess.max(axis=-1) >= 1.0, excess.argmax(axis=-1), others.argmax(axis=-1))
    found = np.take_along_axis(probability, chosen[..., None], axis=-1)[..., 0]
    return np.asarray(labels, np.uint8)[chosen], found


def _provenance(
    home: Home,
    student: DeployedStudent,
    frames: EvaluationFrames,
    config: WeakLabelConfig,
    classes: ClassList | None,
) -> Provenance:
    stores = [frames.scene.frozen.stores[kind] for kind in student.input_kinds]
    evaluation = student.point.evaluation
    versions = [student.checkpoint, *stores, *([] if evaluation is None else [evaluation])]
    inputs = (*(v.as_input for v in versions), *student.space.inputs)
    determining: object = config.determining()
    if classes is not None:
        determining = {"labels": determining, "class_list": {"name": classes.name, "digest": classes.digest}}
    return Provenance(
        kind=KIND,
        partition=frames.key,
        inputs=inputs,
        config_digest=config_digest(determining),
        code_digest=code_digest(__name__, kind=KIND),
        weights_digests={"text_encoder": student.space.encoder.digest},
        licence=home.licence_of(inputs),
        config=config_json(determining),
        packages=package_versions("numpy", "torch", "transformers"),
    )


class _Labeller:
    """Labeller of one scene, frame by frame."""

    def __init__(
        self,
        group: zarr.Group,
        student: DeployedStudent,
        frames: EvaluationFrames,
        config: WeakLabelConfig,
        classes: ClassList | None,
    ) -> None:
        self._group, self._student, self._frames, self._config = group, student, frames, config
        if classes is None:
            prompts = occ3d_prompts(with_sky=True, template=config.prompt_template)
            self._labels: tuple[int, ...] = (*range(NUM_OCC3D_CLASSES), SKY_ID)
            self._thresholds: tuple[float | None, ...] = (None,) * len(self._labels)
            self._names = [*OCC3D_NAMES, "free"]
            own: dict[str, Any] = {}
        else:
            prompts, self._labels = classes.prompts, classes.labels
            self._thresholds = classes.thresholds
            self._names = list(classes.label_names.values())
            own = {
                "class_list": {"name": classes.name, "digest": classes.digest, "yaml": classes.to_yaml()},
                "occ3d_labels": {str(label): index for label, index in classes.occ3d_labels.items()},
                "thresholds": {entry.name: entry.threshold for entry in classes.classes},
            }
        self._vocabulary: Vocabulary = Vocabulary.of(student.space, prompts)
        self._voxel_counts = np.zeros(256, np.int64)
        num_frames, cameras = frames.scene.frozen.num_frames, frames.scene.frozen.num_cameras
        data = student.predictor.config.data
        shapes = {"voxel_label": (num_frames, *OCC3D_GRID.shape), "voxel_probability": (num_frames, *OCC3D_GRID.shape)}
        if config.pixel_labels:
            size = (num_frames, cameras, data.render_height, data.render_width)
            shapes |= {"pixel_label": size, "pixel_probability": size}
        self._arrays = {name: create_target(group, KIND, name, shape) for name, shape in shapes.items()}
        group.attrs.update(
            {
                "class_names": self._names,
                "unknown_voxel": OCC3D_UNKNOWN,
                "sky_pixel": SKY_ID,
                "void_pixel": VOID_ID,
                "camera_names": list(frames.camera_names),
                "prompts": dict(zip(prompts.names, _lists(prompts.concepts), strict=True)),
                "template": prompts.template,
                "checkpoint": {"variant": student.checkpoint.partition, "digest": student.checkpoint.digest},
                "text_encoder_digest": student.space.encoder.digest,
                **student.point.to_json(),
                **own,
            }
        )

    def run(self, on_progress: ProgressCallback | None) -> dict[str, Any]:
        """Label every frame and return the counts of labels."""
        num_frames = self._frames.scene.frozen.num_frames
        cuts: list[dict[str, float]] = []
        for frame in range(num_frames):
            reading = self._student.read(self._frames, frame, samples_per_axis=self._config.voxel_samples_per_axis)
            labels, probability = self._voxels(reading)
            cuts.append(reading.voxels.cuts._asdict())
            self._voxel_counts += np.bincount(labels, minlength=256)
            self._arrays["voxel_label"][frame] = labels.reshape(OCC3D_GRID.shape)
            self._arrays["voxel_probability"][frame] = probability.reshape(OCC3D_GRID.shape)
            if self._config.pixel_labels:
                self._arrays["pixel_label"][frame], self._arrays["pixel_probability"][frame] = self._pixels(reading)
            if on_progress is not None:
                on_progress("weak labels", (frame + 1) / num_frames, {"frame": frame})
        self._group.attrs["occupancy_cuts"] = cuts
        total = int(self._voxel_counts.sum())
        counts = {name: int(self._voxel_counts[i]) for i, name in enumerate(self._names) if i != OCC3D_FREE}
        return {
            "frames": num_frames,
            "observed_share": 1.0 - float(self._voxel_counts[OCC3D_UNKNOWN]) / total,
            "free_share": float(self._voxel_counts[OCC3D_FREE]) / total,
            "voxels": {name: count for name, count in counts.items() if count},
            "is_calibrated": self._student.point.calibration is not None,
        }

    def _voxels(self, reading: FrameReading) -> tuple[UInt8[np.ndarray, " voxels"], Float16[np.ndarray, " voxels"]]:
        point, voxels = self._student.point, reading.voxels
        occupied = point.occupied(voxels.occupancy)
        labels = np.full(len(occupied), OCC3D_FREE, np.uint8)
        probability = 1.0 - occupied
        held = np.flatnonzero(voxels.is_occupied)
        features = self._student.clip_features(reading, held)
        solid = [index for index, label in enumerate(self._labels) if label != SKY_ID]  # a voxel is never sky
        named = class_probability(self._vocabulary.cosine(features)[:, solid], point.temperature)
        labels[held], best = choose_labels(
            named, [self._labels[i] for i in solid], [self._thresholds[i] for i in solid]
        )
        probability[held] = occupied[held] * best
        labels[~voxels.is_observed] = OCC3D_UNKNOWN
        probability[~voxels.is_observed] = np.nan
        return labels, probability.astype(np.float16)

    def _pixels(
        self, reading: FrameReading
    ) -> tuple[UInt8[np.ndarray, "cameras height width"], Float16[np.ndarray, "cameras height width"]]:
        named: Float[np.ndarray, "cameras height width classes"] = self._vocabulary.probability(
            reading.views.features["clip"], self._student.point.temperature
        )
        labels, best = choose_labels(named, self._labels, self._thresholds)
        is_seen = reading.views.is_seen
        probability = np.where(is_seen, best, np.nan)
        return np.where(is_seen, labels, np.uint8(VOID_ID)), probability.astype(np.float16)


def _lists(concepts: tuple[tuple[tuple[str, ...], ...], ...]) -> list[list[list[str]]]:
    return [[list(words) for words in of_class] for of_class in concepts]
