"""A student on images outside any store: one moment of a camera rig, in one pass.

The inputs are made here as they are made for the stores: images at the student's size, and Depth Anything features from
the very weights that the student was trained with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from storage.config_json import config_from_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.cameras import (
    MAX_PRINCIPAL_POINT_OFFSET,
    focal_fault,
    principal_point_offset,
    scale_intrinsics,
)
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.previews.pictures import from_uint8, to_uint8
from storage.scenes.store import SceneReader, shrink_valid
from storage.stores.integrity import machine_faults
from storage.stores.versioned import Home
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN
from student.applications.deployment import VoxelReading, read_voxels
from student.applications.finetuned_head import FinetunedHead, heads_of, packed_heads
from student.config import SHIPPED, FinetuneTask
from student.evaluation.companions import Companions, ModelRecord, companions_of, words_of
from student.inference.feature_bases import load_feature_bases, same_basis
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.predictor import Predictor, RenderedViews
from student.inference.prompts import query_prompts
from student.inference.vocabulary import ClipSpace, Vocabulary
from student.model.types import CameraInputs, TargetCameras
from student.model.voxel_field import VoxelField
from student.training.initial import initial_folder
from teachers.config import DepthAnythingConfig, InferenceConfig
from teachers.image.depth_anything import FAMILIES, DepthAnything
from teachers.image.image_batches import network_size, to_float16
from teachers.image.weights import clip_folder, resolve_weights

PACKED_PATTERNS = ("*.json", "*.safetensors", "README.md")
"""Files of a packed student."""

_DEPTH_KIND = "depth_anything_features"
_PINHOLE = (np.nan,) * 4
_SMALLEST_IMAGE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedCamera:
    """Calibration of one camera of a rig.

    Attributes:
        intrinsics: Intrinsics in pixels of the image, whose corner is (0, 0).
        camera_to_ego: Transform from the camera (OpenCV axes) at its own exposure to the ego frame at the reference
            time. z = 0 of the ego frame is the ground.
        fisheye: Lens coefficients k1 to k4, None for a pinhole.
        is_valid: Whether each pixel shows the world, rather than the vehicle; None if all do.
    """

    intrinsics: Float[np.ndarray, "3 3"]
    camera_to_ego: Float[np.ndarray, "4 4"]
    fisheye: Float[np.ndarray, "4"] | None = None
    is_valid: Bool[np.ndarray, "height width"] | None = None


class _PosedImage(NamedTuple):
    """An image with its camera."""

    image: UInt8[np.ndarray, "height width 3"]
    camera: CalibratedCamera

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the image, pixels."""
        height, width, _ = self.image.shape
        return height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """Which voxels of the Occ3D grid are occupied.

    Attributes:
        is_observed: True for voxels that some camera sees; the others are unknown, which differs from free.
        probability: Calibrated probability of each voxel where the student has a calibration, else raw; 0 where not
            observed.
        is_occupied: Whether a voxel counts as occupied. A frame is cut where its probabilities promise the largest IoU.
    """

    is_observed: Bool[np.ndarray, "200 200 16"]
    probability: Float[np.ndarray, "200 200 16"]
    is_occupied: Bool[np.ndarray, "200 200 16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFrame:
    """Output of a student for one moment.

    Attributes:
        student: The student.
        field: Voxel field in the ego frame of the reference time, to be rendered or queried anywhere.
        cameras: The rig's cameras on the render grid.
        views: Rendered views of these cameras.
    """

    student: "Student"
    field: VoxelField
    cameras: TargetCameras
    views: RenderedViews

    def find(self, text: str, *, negatives: Sequence[str] = ()) -> Float[np.ndarray, "cameras height width"]:
        """Return the probability that each pixel shows what a text says; NaN where a camera sees nothing.

        It is a softmax over the text and its negatives, at the temperature of the student's operating point.

        Args:
            text: A word or a phrase.
            negatives: Words that compete with it; by default the Occ3D classes and the sky that it does not name.

        Raises:
            ValueError: If the text is blank.
            MissingTargetError: If the student has no words.
        """
        vocabulary = Vocabulary.of(self.student.words, query_prompts(text, negatives=negatives))
        temperature = self.student.companions.point.temperature
        heat = vocabulary.probability(self.views.features["clip"], temperature)[..., 0]
        return np.where(self.views.is_seen, heat, np.nan)

    def occupancy(self, *, head: FinetuneTask | None = None) -> Occupancy:
        """Return which voxels of the Occ3D grid are occupied.

        Args:
            head: Head that tells, with its own thresholds and calibration; None for the student itself.

        Raises:
            MissingTargetError: If the student has no such head.
        """
        voxels = self._voxels()
        if head is not None:
            own = self.student.head(head)
            raw = own.read(self.field).occupancy
            return Occupancy(
                is_observed=voxels.is_observed.reshape(OCC3D_GRID.shape),
                probability=np.where(voxels.is_observed, own.fit.calibration.apply(raw), 0.0).reshape(OCC3D_GRID.shape),
                is_occupied=voxels.is_observed.reshape(OCC3D_GRID.shape) & (own.label(self.field) != OCC3D_FREE),
            )
        point = self.student.companions.point
        probability = np.where(voxels.is_observed, point.occupied(voxels.occupancy), 0.0)
        return Occupancy(
            is_observed=voxels.is_observed.reshape(OCC3D_GRID.shape),
            probability=probability.reshape(OCC3D_GRID.shape),
            is_occupied=voxels.is_occupied.reshape(OCC3D_GRID.shape),
        )

    def label(self) -> UInt8[np.ndarray, "200 200 16"]:
        """Return the Occ3D class of each voxel, by the head that was fine-tuned for it; 17 where free, 255 unseen.

        Raises:
            MissingTargetError: If the student has no head for segmentation.
        """
        labels = self.student.head("segmentation").label(self.field)
        is_observed = self._voxels().is_observed
        return np.where(is_observed.reshape(OCC3D_GRID.shape), labels, np.uint8(OCC3D_UNKNOWN))

    def _voxels(self) -> VoxelReading:
        student = self.student
        return read_voxels(student.predictor, student.companions.point, self.field, self.cameras, self.views)


class Student:
    """A student ready for images of any calibrated rig, with its words and its thresholds.

    Args:
        predictor: The student.
        companions: What belongs to it beside its weights.
        bases: Basis of each of its foundation features.
        heads: Folder of each head that was fine-tuned on its fields.
        device: Device of its depth model.

    Raises:
        MissingTargetError: If the weights of its depth model are gone.
        IntegrityError: If they differ from those that made its training targets.
    """

    def __init__(
        self,
        predictor: Predictor,
        companions: Companions,
        bases: Mapping[str, StoredFeatureBasis],
        *,
        heads: Mapping[FinetuneTask, Path] | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> None:
        self.predictor, self.companions, self._bases = predictor, companions, bases
        self._heads: dict[FinetuneTask, FinetunedHead] = {
            task: FinetunedHead.load(folder) for task, folder in (heads or {}).items()
        }
        self._depth_anything = None
        if predictor.config.data.depth_anything:
            self._depth_anything = _depth_anything(companions.depth_anything, device)

    @classmethod
    def open(
        cls, home: Home, variant: str, digest: str | None = None, *, device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> "Student":
        """Open the current checkpoint of a variant, or the one with this digest, from the home that it was trained in.

        Args:
            home: Home of the checkpoint.
            variant: Partition of the checkpoint.
            digest: Digest of an exact version; None for the current one.
            device: Device of the student and its depth model.

        Raises:
            MissingTargetError: If the checkpoint, its training set or the weights of a model are gone.
            IntegrityError: If those weights differ from the ones that made the student's training targets.
        """
        predictor = Predictor.open(home, variant, digest, device=device)
        assert predictor.version is not None
        companions = companions_of(home, predictor.version)
        bases = load_feature_bases(home.open_files(predictor.version))
        return cls(predictor, companions, bases, heads=heads_of(home, predictor.version), device=device)

    @classmethod
    def from_pretrained(
        cls, folder_or_id: str | Path, *, revision: str | None = None, device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> "Student":
        """Open a packed student (``distillnerf pack``), a folder or a model on the hub; no home and no store is needed.

        Args:
            folder_or_id: The folder, the hub id, or "shipped" for the student that comes with this package.
            revision: Commit, tag or branch on the hub.
            device: Device of the student and its depth model.

        Raises:
            MissingTargetError: If the folder lacks a file, the hub does not give the model, or the weights of its depth
                model are not to be had.
            IntegrityError: If a file is damaged, or those weights are others than it was trained with.
        """
        folder = packed_folder(folder_or_id, revision)
        companions = Companions.load(folder)
        predictor, bases = Predictor.from_folder(folder, device=device), load_feature_bases(folder)
        return cls(predictor, companions, bases, heads=packed_heads(folder), device=device)

    def __call__(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"] | Float[np.ndarray, "_ _ 3"]],
        rig: Sequence[CalibratedCamera],
        *,
        image_range: tuple[float, float] | None = None,
    ) -> LiveFrame:
        """Lift one moment into a field, and render the rig's cameras from it.

        Args:
            images: One RGB image for each camera, of any sizes; a pinhole's must be without lens distortion.
            rig: One to ten cameras.
            image_range: Values of black and white, of images in floating point; uint8 needs none.

        Raises:
            ValueError: If there is no camera, not one image for each, or an image whose range is not known.
        """
        field, cameras = self.lift(images, rig, image_range=image_range)
        return LiveFrame(student=self, field=field, cameras=cameras, views=self.predictor.render(field, cameras))

    def lift(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"] | Float[np.ndarray, "_ _ 3"]],
        rig: Sequence[CalibratedCamera],
        *,
        image_range: tuple[float, float] | None = None,
    ) -> tuple[VoxelField, TargetCameras]:
        """Lift one moment into a field, and return with it the rig's cameras on the render grid; see ``__call__``."""
        posed = _posed(images, rig, image_range)
        data = self.predictor.config.data
        cameras = _target_cameras(posed, height=data.render_height, width=data.render_width)
        return self.predictor.encode(self._inputs(posed)), cameras

    def head(self, task: FinetuneTask) -> FinetunedHead:
        """Return the head that was fine-tuned for a task.

        Raises:
            MissingTargetError: If there is none.
        """
        if task not in self._heads:
            message = f"has no head for {task}: distillnerf finetune {task} trains one"
            raise MissingTargetError(ErrorKind.TARGET_MISSING, "student", message)
        return self._heads[task]

    def has_basis(self, source: str, basis: StoredFeatureBasis) -> bool:
        """Return whether its features of a source mean the same as others that this basis reduced, to the bit."""
        return source in self._bases and same_basis(self._bases[source], basis)

    @cached_property
    def words(self) -> ClipSpace:
        """The text encoder and the basis of the student's CLIP features.

        Raises:
            MissingTargetError: If the student renders no CLIP features, or the encoder is not to be had.
            ProvenanceMismatchError: If the encoder differs from the one that made the features.
        """
        return words_of(self.companions, self._bases, clip_folder)

    def inputs(self, images: Sequence[np.ndarray], rig: Sequence[CalibratedCamera]) -> CameraInputs:
        """Return what the network reads of one moment, as the stores would hold it."""
        return self._inputs(_posed(images, rig, None))

    def _inputs(self, rig: Sequence[_PosedImage]) -> CameraInputs:
        data = self.predictor.config.data
        size = (data.image_height, data.image_width)
        images = np.stack([_resized(camera.image, size) for camera in rig])
        features = None if self._depth_anything is None else _depth_features(self._depth_anything, rig)
        return CameraInputs(
            images=torch.from_numpy(from_uint8(images.transpose(0, 3, 1, 2)))[None],
            intrinsics=_intrinsics(rig, size),
            camera_to_reference_ego=_poses(rig),
            camera_is_present=torch.ones(1, len(rig), dtype=torch.bool),
            depth_features=None if features is None else torch.from_numpy(features.transpose(0, 3, 1, 2))[None],
            fisheye=_lenses(rig),
            is_valid=_valid(rig, size),
        )


def recorded_moment(scene: SceneReader, frame: int) -> tuple[list[UInt8[np.ndarray, "_ _ 3"]], list[CalibratedCamera]]:
    """Return the images of one frame of a scene, and the rig that took them."""
    rig = []
    for camera in range(scene.num_cameras):
        lens = scene.fisheye(camera)
        rig.append(
            CalibratedCamera(
                intrinsics=scene.intrinsics(camera),
                camera_to_ego=scene.camera_to_reference_ego(frame, camera),
                fisheye=lens if np.isfinite(lens).all() else None,
                is_valid=scene.is_valid(camera),
            )
        )
    return [scene.image(frame, camera) for camera in range(scene.num_cameras)], rig


def _posed(
    images: Sequence[np.ndarray], rig: Sequence[CalibratedCamera], image_range: tuple[float, float] | None
) -> list[_PosedImage]:
    if not rig:
        raise ValueError("a rig needs at least one camera")
    if len(images) != len(rig):
        raise ValueError(f"{len(images)} images for {len(rig)} cameras: want one for each")
    posed = []
    for index, (image, camera) in enumerate(zip(images, rig, strict=True)):
        if fault := _fault_of(image, camera):
            raise ValueError(f"camera {index}: {fault}")
        posed.append(_PosedImage(_as_uint8(image, image_range), camera))
    return posed


def _fault_of(image: Any, camera: CalibratedCamera) -> str | None:  # noqa: ANN401 - whatever a caller takes for an image
    """Return why a camera's image, or its intrinsics beside it, cannot be what they should; None if they can."""
    if not isinstance(image, np.ndarray):
        return f"the image is a {type(image).__name__}, want an array of RGB, as np.asarray(Image.open(file)) is"
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _SMALLEST_IMAGE:
        return f"the image has shape {image.shape}, want (height, width, 3), RGB, {_SMALLEST_IMAGE} pixels or more"
    intrinsics = np.asarray(camera.intrinsics)
    if intrinsics.shape != (3, 3) or not np.isfinite(intrinsics).all() or min(intrinsics[0, 0], intrinsics[1, 1]) <= 0:
        return None  # the student says what is wrong with these
    height, width = image.shape[:2]
    if fault := focal_fault(intrinsics, height=height, width=width):
        return fault
    if principal_point_offset(intrinsics, height=height, width=width) > MAX_PRINCIPAL_POINT_OFFSET:
        cx, cy = intrinsics[:2, 2]
        return (
            f"the principal point ({cx:.6g}, {cy:.6g}) lies outside the image of {width} x {height}: are the "
            "intrinsics those of another size?"
        )
    return None


def packed_folder(folder_or_id: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a packed student, downloading it if it is a model on the hub.

    "shipped" names the student that comes with this package.

    Raises:
        MissingTargetError: If there is no such folder, and the hub does not give such a model.
    """
    folder = initial_folder(SHIPPED) if str(folder_or_id) == SHIPPED else Path(folder_or_id).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with machine_faults(str(folder_or_id)):
            return Path(snapshot_download(str(folder_or_id), revision=revision, allow_patterns=list(PACKED_PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingTargetError(
            ErrorKind.WEIGHTS_MISSING,
            str(folder_or_id),
            f"is no folder, and no model that the hub gave ({type(error).__name__})",
        ) from error


def _as_uint8(
    image: UInt8[np.ndarray, "height width 3"] | Float[np.ndarray, "height width 3"],
    image_range: tuple[float, float] | None,
) -> UInt8[np.ndarray, "height width 3"]:
    if image.dtype == np.uint8:
        return image
    if image_range is None:
        raise ValueError(f"an image of {image.dtype} needs image_range, the values of black and white")
    low, high = image_range
    if not low < high:
        raise ValueError(f"image_range {image_range}: want black below white")
    share = (image - low) / (high - low)
    if not (np.isfinite(share).all() and share.min() > -0.01 and share.max() < 1.01):
        found = f"{float(np.min(image))} to {float(np.max(image))}"
        raise ValueError(f"an image has values from {found}, want them within image_range {image_range}")
    return to_uint8(share)


def _depth_anything(record: ModelRecord | None, device: Literal["auto", "cpu", "cuda"]) -> DepthAnything:
    """Open the depth model that a student was trained beside."""
    if record is None:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, _DEPTH_KIND, "the student reads them, no model is recorded")
    inference = {"batch_size": InferenceConfig().batch_size, "device": device}
    config = config_from_json(DepthAnythingConfig, {**record.config, "inference": inference}, _DEPTH_KIND)
    weights = resolve_weights(config.weights, *FAMILIES)
    changed = sorted(name for name, digest in record.digests.items() if weights.digests.get(name) != digest)
    if changed:
        message = f"{', '.join(changed)}: other files than the student's training targets were made with"
        raise IntegrityError(ErrorKind.DIGEST_MISMATCH, str(weights.path), message)
    return DepthAnything(config, weights)


def _depth_features(model: DepthAnything, rig: Sequence[_PosedImage]) -> Float[np.ndarray, "cameras rows columns c"]:
    """Return each camera's features, rounded as in a store."""
    features = []
    for camera in rig:  # image sizes may differ
        size = network_size(camera.size, short_side=model.config.input_short_side, multiple=model.multiple)
        maps, _ = model.features_and_inverse_depth(_resized(camera.image, size)[None])
        features.append(to_float16(maps[0].numpy()).astype(np.float32))
    return np.stack(features)


def _resized(image: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _target_cameras(rig: Sequence[_PosedImage], *, height: int, width: int) -> TargetCameras:
    return TargetCameras(
        intrinsics=_intrinsics(rig, (height, width)),
        camera_to_reference_ego=_poses(rig),
        target_is_present=torch.ones(1, len(rig), dtype=torch.bool),
        render_height=height,
        render_width=width,
        fisheye=_lenses(rig),
        is_valid=_valid(rig, (height, width)),
    )


def _intrinsics(rig: Sequence[_PosedImage], size: tuple[int, int]) -> Float[torch.Tensor, "1 cameras 3 3"]:
    scaled = [scale_intrinsics(c.camera.intrinsics, from_size=c.size, to_size=size) for c in rig]
    return torch.from_numpy(np.stack(scaled).astype(np.float32))[None]


def _valid(rig: Sequence[_PosedImage], size: tuple[int, int]) -> Bool[torch.Tensor, "1 cameras height width"]:
    everywhere = np.ones(size, bool)
    masks = [everywhere if c.camera.is_valid is None else shrink_valid(c.camera.is_valid, size) for c in rig]
    return torch.from_numpy(np.stack(masks))[None]


def _poses(rig: Sequence[_PosedImage]) -> Float[torch.Tensor, "1 cameras 4 4"]:
    return torch.from_numpy(np.stack([posed.camera.camera_to_ego for posed in rig]).astype(np.float32))[None]


def _lenses(rig: Sequence[_PosedImage]) -> Float[torch.Tensor, "1 cameras 4"]:
    lenses = [_PINHOLE if posed.camera.fisheye is None else posed.camera.fisheye for posed in rig]
    return torch.from_numpy(np.array(lenses, np.float32))[None]
