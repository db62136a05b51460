"""Label a scene's voxels and pixels with a student. The labels are stored with a record of how they were made.

The training set refuses them as targets; they are a start for labelling data.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Float16, UInt8

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.stores.arrays import create_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays
from storage.taxonomy import NUM_OCC3D_CLASSES, OCC3D_FREE, OCC3D_NAMES, OCC3D_UNKNOWN, SKY_ID, VOID_ID
from student.applications.deployment import DeployedStudent, FrameReading
from student.evaluation.config import WeakLabelConfig
from student.evaluation.frames import EvaluationFrames
from student.inference.open_vocabulary import class_probability
from student.inference.vocabulary import Vocabulary, occ3d_vocabulary

KIND = Kind.WEAK_LABELS


def export_weak_labels(
    home: Home,
    scene_key: SceneKey,
    variant: str,
    config: WeakLabelConfig,
    on_progress: Callable[[str, float, Mapping[str, Any]], None] | None = None,
) -> Materialized:
    """Return a student's labels of a scene, making them first if they do not exist.

    Voxels have Occ3D labels (17 is free, 255 is not seen by any camera) and the probability that the label is right:
    that the voxel is occupied and of that class, or that it is free. It is NaN where not seen. Pixels have the most
    probable class (255 is sky; 254 is outside a fisheye's image circle, or the vehicle itself) and its probability, on
    the student's render grid.

    Args:
        home: Home of the student and the scene.
        scene_key: Key of the scene, which need not be one of the training scenes.
        variant: Variant of a student that renders CLIP features.
        config: Configuration of the labels.
        on_progress: Function called after every frame.

    Raises:
        MissingTargetError: If the student or a store of the scene is missing, or the student renders no CLIP features.
        ProvenanceMismatchError: If the scene's stores were made from different versions of it.
    """
    student = DeployedStudent.open(
        home,
        variant,
        checkpoint_digest=config.checkpoint_digest,
        device=config.device,
        text_encoder=config.text_encoder,
        default_threshold=config.default_threshold,
    )
    frames = student.frames(scene_key)
    provenance = _provenance(home, student, frames, config)

    def write(group: zarr.Group) -> Mapping[str, Any]:
        return _Labeller(group, student, frames, config).run(on_progress)

    return materialize_arrays(home, provenance, write)


def _provenance(home: Home, student: DeployedStudent, frames: EvaluationFrames, config: WeakLabelConfig) -> Provenance:
    stores = [frames.scene.frozen.stores[kind] for kind in student.input_kinds]
    evaluation = student.point.evaluation
    versions = [student.checkpoint, *stores, *([] if evaluation is None else [evaluation])]
    inputs = (*(v.as_input for v in versions), *student.space.inputs)
    determining = config.determining()
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
        self, group: zarr.Group, student: DeployedStudent, frames: EvaluationFrames, config: WeakLabelConfig
    ) -> None:
        self._student, self._frames, self._config = student, frames, config
        self._vocabulary: Vocabulary = occ3d_vocabulary(student.space, config.prompt_template)
        self._voxel_counts = np.zeros(256, np.int64)
        num_frames, cameras = frames.scene.frozen.num_frames, frames.scene.frozen.num_cameras
        data = student.predictor.config.data
        shapes = {"voxel_label": (num_frames, *OCC3D_GRID.shape), "voxel_probability": (num_frames, *OCC3D_GRID.shape)}
        if config.pixel_labels:
            size = (num_frames, cameras, data.render_height, data.render_width)
            shapes |= {"pixel_label": size, "pixel_probability": size}
        self._arrays = {name: create_target(group, KIND, name, shape) for name, shape in shapes.items()}
        prompts = self._vocabulary.prompts
        group.attrs.update(
            {
                "class_names": [*OCC3D_NAMES, "free"],
                "unknown_voxel": OCC3D_UNKNOWN,
                "sky_pixel": SKY_ID,
                "void_pixel": VOID_ID,
                "camera_names": list(frames.camera_names),
                "prompts": dict(zip(prompts.names, _lists(prompts.concepts), strict=True)),
                "template": config.prompt_template,
                "checkpoint": {"variant": student.checkpoint.partition, "digest": student.checkpoint.digest},
                "text_encoder_digest": student.space.encoder.digest,
                **student.point.to_json(),
            }
        )

    def run(self, on_progress: Callable[[str, float, Mapping[str, Any]], None] | None) -> dict[str, Any]:
        """Label every frame and return the counts of labels."""
        num_frames = self._frames.scene.frozen.num_frames
        for frame in range(num_frames):
            reading = self._student.read(self._frames, frame, samples_per_axis=self._config.voxel_samples_per_axis)
            labels, probability = self._voxels(reading)
            self._voxel_counts += np.bincount(labels, minlength=256)
            self._arrays["voxel_label"][frame] = labels.reshape(OCC3D_GRID.shape)
            self._arrays["voxel_probability"][frame] = probability.reshape(OCC3D_GRID.shape)
            if self._config.pixel_labels:
                self._arrays["pixel_label"][frame], self._arrays["pixel_probability"][frame] = self._pixels(reading)
            if on_progress is not None:
                on_progress("weak labels", (frame + 1) / num_frames, {"frame": frame})
        total = int(self._voxel_counts.sum())
        counts = {name: int(self._voxel_counts[i]) for i, name in enumerate(OCC3D_NAMES)}
        return {
            "frames": num_frames,
            "observed_share": 1.0 - float(self._voxel_counts[OCC3D_UNKNOWN]) / total,
            "free_share": float(self._voxel_counts[OCC3D_FREE]) / total,
            "voxels": {name: count for name, count in counts.items() if count},
            "is_calibrated": self._student.point.calibration is not None,
        }

    def _voxels(self, reading: FrameReading) -> tuple[UInt8[np.ndarray, " voxels"], Float16[np.ndarray, " voxels"]]:
        point = self._student.point
        occupied = point.occupied(reading.occupancy)
        labels = np.full(len(occupied), OCC3D_FREE, np.uint8)
        probability = 1.0 - occupied
        held = np.flatnonzero(reading.is_observed & (reading.occupancy >= point.threshold))
        features = self._student.predictor.point_features(reading.field, "clip", reading.points[held])
        cosine = self._vocabulary.cosine(features)[:, :NUM_OCC3D_CLASSES]  # a voxel is never sky
        named = class_probability(cosine, point.temperature)
        labels[held] = named.argmax(axis=1).astype(np.uint8)
        probability[held] = occupied[held] * named.max(axis=1)
        labels[~reading.is_observed] = OCC3D_UNKNOWN
        probability[~reading.is_observed] = np.nan
        return labels, probability.astype(np.float16)

    def _pixels(
        self, reading: FrameReading
    ) -> tuple[UInt8[np.ndarray, "cameras height width"], Float16[np.ndarray, "cameras height width"]]:
        named: Float[np.ndarray, "cameras height width classes"] = self._vocabulary.probability(
            reading.views.features["clip"], self._student.point.temperature
        )
        best = named.argmax(axis=-1)
        labels = np.where(best == NUM_OCC3D_CLASSES, SKY_ID, best).astype(np.uint8)
        is_seen = reading.views.is_seen
        probability = np.where(is_seen, named.max(axis=-1), np.nan)
        return np.where(is_seen, labels, np.uint8(VOID_ID)), probability.astype(np.float16)


def _lists(concepts: tuple[tuple[tuple[str, ...], ...], ...]) -> list[list[list[str]]]:
    return [[list(words) for words in of_class] for of_class in concepts]
