"""Frames of an evaluation: held-out frames, every available reference, and the truth where one exists.

The student's inputs are assembled exactly as in training. References that the variant was not trained on, such as
features, are read too, so that a figure does not depend on the losses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
import zarr
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from storage.digests import config_json
from storage.geometry.resize import resize_nearest
from storage.geometry.transforms import apply_se3, invert_se3
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import FEATURE_SOURCES, Kind, features_kind
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import OCC3D_UNKNOWN
from student.config import DataConfig
from student.data.dataset import FrameDataset
from student.data.frames import StoreFrames
from student.data.lineage import check_consistent
from student.data.sample import TrainingBatch
from student.data.training_set import FrozenScene, FrozenScenes
from student.data.views import TargetView, ViewChoice
from student.evaluation.recorded_truth import RecordedTruth
from student.evaluation.word_sets import TrueNames, occ3d_names
from student.model.types import TargetCameras

TRUTH_KIND = Kind.SCENE_TRUTH
VoxelReference = Literal["exact", "occ3d", "lidar"]
"""Origin of true voxels: the procedural world itself, labels that came with a recording, or the beams of its LiDAR."""

NameReference = Literal["exact", "points", "boxes"]
"""What names things: the procedural world, labels of LiDAR points, or the boxes around them."""

_USUAL_HEIGHT_M = 1.8  # of a LiDAR on a roof
_OPAQUE = 0.5

_REFERENCE_KINDS = (Kind.TEACHER_DEPTH, Kind.VIRTUAL_VIEWS, Kind.SKY_MASK, *map(features_kind, FEATURE_SOURCES))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationScene:
    """One scene with every store that serves as a reference.

    Attributes:
        frozen: The scene; its stores include references beyond those of the training set.
        truth: The procedural truth; None for a recording.
        labels: Occupancy labels that came with a recording; None without any, and where there is the truth itself.
        lidar: Occupancy by the LiDAR's beams; None without any, and where there is something better.
        teacher: How opaque the scene's own field holds each voxel for; None if it was not asked.
    """

    frozen: FrozenScene
    truth: StoreVersion | None
    labels: StoreVersion | None
    lidar: StoreVersion | None
    teacher: StoreVersion | None = None

    @property
    def voxel_reference(self) -> VoxelReference | None:
        """Return the origin of the scene's true voxels; None if it has none."""
        if self.truth is not None:
            return "exact"
        if self.labels is not None:
            return "occ3d"
        return None if self.lidar is None else "lidar"

    @property
    def versions(self) -> tuple[InputVersion, ...]:
        """Return all versions that are read."""
        beside = (self.truth, self.labels, self.lidar, self.teacher)
        return tuple(v.as_input for v in (*self.frozen.stores.values(), *beside) if v is not None)


def whole_scene(home: Home, key: str, kinds: Iterable[str]) -> FrozenScene:
    """Return an ingested scene in its current version, all of it held out.

    Args:
        home: Home of the scene.
        key: The scene.
        kinds: Kinds to read beside the scene itself.

    Raises:
        MissingTargetError: If one of them was never materialised.
    """
    stores = {kind: home.require(kind, key) for kind in dict.fromkeys((Kind.SCENE, *kinds))}
    reader = SceneReader(home.open_arrays(stores[Kind.SCENE]), stores[Kind.SCENE])
    return FrozenScene(
        key=key,
        num_frames=reader.num_frames,
        num_cameras=reader.num_cameras,
        train_frames=(),
        validation_frames=tuple(range(reader.num_frames)),
        stores=stores,
    )


def evaluation_scenes(home: Home, scenes_read: FrozenScenes) -> tuple[EvaluationScene, ...]:
    """Return frozen scenes with the references that exist now.

    Raises:
        ProvenanceMismatchError: If a reference was made from another version of the scene.
    """
    scenes = []
    for frozen in scenes_read.scenes:
        stores = dict(frozen.stores)
        for kind in _REFERENCE_KINDS:
            found = home.latest(kind, frozen.key)
            if kind not in stores and found is not None:
                stores[kind] = found
        check_consistent(home, stores.values())
        truth = home.latest(TRUTH_KIND, frozen.key)
        labels = None if truth is not None else occupancy_labels_of(home, frozen.key)
        lidar = None if truth is not None or labels is not None else lidar_occupancy_of(home, frozen.key)
        teacher = home.latest(Kind.TEACHER_OCCUPANCY, frozen.key)
        check_consistent(home, (*stores.values(), *(v for v in (labels, lidar, teacher) if v is not None)))
        scenes.append(
            EvaluationScene(
                frozen=replace(frozen, stores=stores), truth=truth, labels=labels, lidar=lidar, teacher=teacher
            )
        )
    return tuple(scenes)


def lidar_occupancy_of(home: Home, key: str) -> StoreVersion | None:
    """Return a scene's occupancy by its LiDAR; None if no beam told anything, or in another grid than Occ3D's."""
    found = home.latest(Kind.LIDAR_OCCUPANCY, key)
    if found is None or not home.metrics(found)["labelled_frames"]:
        return None
    return found if home.open_arrays(found).attrs["grid"] == config_json(OCC3D_GRID) else None


def occupancy_labels_of(home: Home, key: str) -> StoreVersion | None:
    """Return the labels that came with a scene; None if no frame of it has any."""
    found = home.latest(Kind.OCCUPANCY_LABELS, key)
    return found if found is not None and home.metrics(found)["labelled_frames"] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTruth:
    """True world at one frame, on the render grid.

    Attributes:
        termination_depth: Distance along unit rays, metres; NaN for the sky.
        semantics: Class ids of the procedural world; 255 for the sky.
        surface: Members of ``SurfaceKind``, 255 for the sky; None of older truth, which does not say.
    """

    termination_depth: Float32[np.ndarray, "cameras height width"]
    semantics: UInt8[np.ndarray, "cameras height width"]
    surface: UInt8[np.ndarray, "cameras height width"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelTruth:
    """True voxels of the Occ3D grid at one frame.

    Attributes:
        labels: Occ3D classes; 17 for free, 254 for something without one.
        has_all_names: Whether 254 tells that a voxel is of none of the named classes. Otherwise its class is unknown.
        is_visible: True for voxels that some camera can see, and whose state is known.
        is_hidden: True for voxels that no camera can see, but whose state is known.
    """

    labels: UInt8[np.ndarray, "200 200 16"]
    has_all_names: bool
    is_visible: Bool[np.ndarray, "200 200 16"]
    is_hidden: Bool[np.ndarray, "200 200 16"]


class EvaluationFrames:
    """Frames of one scene, as batches of one with all views that are scored.

    Args:
        home: Home of the stores.
        together: Scenes that are read together; their largest rig decides the padding.
        scene: Scene to read.
        config: Sizes at which the student was trained.
        frames_class: How frames are read from the stores; a protocol may resize images otherwise.
    """

    def __init__(
        self,
        home: Home,
        together: FrozenScenes,
        scene: EvaluationScene,
        config: DataConfig,
        frames_class: type[StoreFrames] = StoreFrames,
    ) -> None:
        self.scene = scene
        stores = scene.frozen.stores
        self.config = replace(
            config,
            teacher_depth=Kind.TEACHER_DEPTH in stores,
            sky_masks=Kind.SKY_MASK in stores,
            feature_sources=tuple(s for s in FEATURE_SOURCES if features_kind(s) in stores),
            features_from="images",  # whatever a run learned from, all are held against the same features
            dynamic_masks="none",  # whatever a run left out, all are judged on the same pixels
        )
        others = tuple(scene.frozen if s.key == scene.frozen.key else s for s in together.scenes)
        together = FrozenScenes(scenes=others)
        self._dataset = FrameDataset(home, together, "validation", self.config, open_frames=frames_class)
        self.stores = StoreFrames(home, scene.frozen)
        self._home = home
        self._truth: zarr.Group | None = None if scene.truth is None else home.open_arrays(scene.truth)
        self._last_truth: tuple[int, EvaluationTruth] | None = None
        self._voxel_group: zarr.Group | None = None

    @property
    def key(self) -> str:
        """Return the scene's key."""
        return self.scene.frozen.key

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Return the names of the cameras."""
        return self.stores.reader.camera_names

    @cached_property
    def fitted_by_teacher(self) -> frozenset[int] | None:
        """Return the frames that the scene teacher was fitted to; None without one, or where it does not say."""
        depth = self.scene.frozen.stores.get(Kind.TEACHER_DEPTH)
        inputs = () if depth is None else self._home.provenance(depth).inputs
        for item in inputs:
            field = self._home.find(item.kind, item.partition, item.digest)
            if item.kind == Kind.NERF_TEACHER and field is not None:
                fitted = self._home.metrics(field).get("fitted_frames")
                return None if fitted is None else frozenset(fitted)
        return None

    @property
    def has_virtual_views(self) -> bool:
        """Return whether the scene teacher rendered virtual views."""
        return Kind.VIRTUAL_VIEWS in self.scene.frozen.stores

    def camera_views(self, frame: int, *, target_frame: int | None = None) -> TrainingBatch:
        """Return the inputs of ``frame`` with every camera of ``target_frame`` (the same by default) as targets."""
        return self._sample(frame, [self._view(frame if target_frame is None else target_frame, c) for c in self._rig])

    def virtual_views(self, frame: int) -> TrainingBatch:
        """Return the inputs with all virtual views as targets; the one camera view in the batch is a placeholder."""
        num_virtual = len(self.stores.virtual_to_camera())
        virtual = [
            TargetView(frame_index=frame, camera_index=camera, virtual_index=index)
            for camera in self._rig
            for index in range(num_virtual)
        ]
        return self._sample(frame, [self._view(frame, 0)], virtual)

    def truth(self, frame: int) -> EvaluationTruth | None:
        """Return the true world at a frame; None for a recording. What was read last is kept."""
        if self._truth is None:
            return None
        if self._last_truth is None or self._last_truth[0] != frame:
            self._last_truth = frame, self._read_truth(self._truth, frame)
        return self._last_truth[1]

    def _read_truth(self, group: zarr.Group, frame: int) -> EvaluationTruth:
        names = ("termination_depth", "semantics", *(("surface",) if "surface" in group else ()))
        read = {name: read_target(group, TRUTH_KIND, name, frame) for name in names}
        size = (self.config.render_height, self.config.render_width)
        attributes: dict[str, Any] = group.attrs.asdict()
        # The writer's order of cameras need not be the recording's.
        order = [attributes["camera_names"].index(name) for name in self.camera_names]
        return EvaluationTruth(**{name: resize_nearest(of[order], *size, axis=1) for name, of in read.items()})

    def voxel_truth(self, frame: int) -> VoxelTruth | None:
        """Return the true voxels at a frame by the scene's ``voxel_reference``; None if no camera sees any."""
        version, names = self._voxels
        if version is None:
            return None
        group = self._opened(version)
        labels, is_visible = (read_target(group, version.kind, name, frame) for name in names[:2])
        if not is_visible.any():  # a frame without labels
            return None
        is_known = labels != OCC3D_UNKNOWN
        if (
            version.kind != Kind.LIDAR_OCCUPANCY
        ):  # which knows what other sweeps saw; the others say something everywhere
            scanned = (
                read_target(group, version.kind, names[2], frame) if names[2] in group else np.zeros_like(is_known)
            )
            is_known &= scanned | is_visible
        return VoxelTruth(
            labels=labels,
            has_all_names=group.attrs.get("names_from") == "boxes",
            is_visible=is_visible,
            is_hidden=is_known & ~is_visible,
        )

    @property
    def frames_of_teacher(self) -> frozenset[int]:
        """Return the frames whose voxels the scene's own field was asked for."""
        attributes: dict[str, Any] = {} if self._teacher_voxels is None else self._teacher_voxels.attrs.asdict()
        return frozenset(attributes.get("frames", ()))

    def held_opaque(self, frame: int) -> Bool[np.ndarray, " voxels"]:
        """Return the voxels of the Occ3D grid that the scene's own field holds for opaque at a frame.

        Nothing is chosen here: a voxel is opaque if half of the light is stopped on the length of its side.
        """
        assert self._teacher_voxels is not None
        opacity = read_target(self._teacher_voxels, Kind.TEACHER_OCCUPANCY, "opacity", frame)
        return opacity.reshape(-1) >= _OPAQUE

    @cached_property
    def _teacher_voxels(self) -> zarr.Group | None:
        version = self.scene.teacher
        return None if version is None else self._home.open_arrays(version)

    @property
    def names_reference(self) -> NameReference | None:
        """Return what names the pixels and points of the scene; None if nothing does."""
        if self._truth is not None:
            return "exact"
        return None if self.recorded.source == "none" else self.recorded.source

    def pixel_labels(
        self, frame: int, names: TrueNames | None = None
    ) -> UInt8[np.ndarray, "cameras height width"] | None:
        """Return true classes on the render grid, as indices of a set of names; None if nothing names any.

        It is 255 where nothing is known, and 254 for something of another class than those that are named. On a
        recording, only pixels with a LiDAR return or with a panoptic label of sky are known.

        Args:
            frame: Frame index.
            names: The names; those of ``occ3d_vocabulary`` by default.
        """
        names, truth = names or occ3d_names(), self.truth(frame)
        if truth is not None:
            return names.of_semantics[truth.semantics]
        return self.recorded.pixel_labels(frame, names.of_category, names.sky)

    def seconds_between(self, frame: int, other: int) -> float:
        """Return the time from one frame's reference time to another's, seconds."""
        return (self.stores.reader.timestamp_us(other) - self.stores.reader.timestamp_us(frame)) * 1e-6

    @cached_property
    def recorded(self) -> RecordedTruth:
        """What the recording says about its own classes and sky."""
        return RecordedTruth(self.stores.reader, height=self.config.render_height, width=self.config.render_width)

    @property
    def _voxels(self) -> tuple[StoreVersion | None, tuple[str, str, str]]:
        """Return the store of the true voxels, and its arrays of labels, of what cameras see, of what LiDAR sees."""
        if self.scene.truth is not None:
            return self.scene.truth, ("occupancy", "occupancy_is_visible", "occupancy_is_scanned")
        return self.scene.labels or self.scene.lidar, ("voxel_label", "is_visible", "is_scanned")

    def _opened(self, version: StoreVersion) -> zarr.Group:
        if self._voxel_group is None:
            self._voxel_group = self._home.open_arrays(version)
        return self._voxel_group

    @property
    def _rig(self) -> range:
        return range(self.scene.frozen.num_cameras)

    def _view(self, frame: int, camera: int) -> TargetView:
        return TargetView(frame_index=frame, camera_index=camera)

    def _sample(self, frame: int, real: Sequence[TargetView], virtual: Sequence[TargetView] = ()) -> TrainingBatch:
        return self._dataset.sample(self.key, frame, ViewChoice(real=tuple(real), virtual=tuple(virtual)))


def view_images(batch: TrainingBatch) -> Float32[np.ndarray, "views height width 3"]:
    """Return the images of a batch's camera views, in [0, 1]."""
    return channels_last(batch.view_targets.image[0])


def valid_of(batch: TrainingBatch) -> Bool[np.ndarray, "views height width"] | None:
    """Return True for pixels of a batch's camera views that show the world; None if all do."""
    return None if batch.cameras.is_valid is None else batch.cameras.is_valid[0].numpy()


def select_views(cameras: TargetCameras, views: slice) -> TargetCameras:
    """Return some of the target cameras."""
    return replace(
        cameras,
        intrinsics=cameras.intrinsics[:, views],
        camera_to_reference_ego=cameras.camera_to_reference_ego[:, views],
        target_is_present=cameras.target_is_present[:, views],
        fisheye=None if cameras.fisheye is None else cameras.fisheye[:, views],
        is_valid=None if cameras.is_valid is None else cameras.is_valid[:, views],
    )


def shift_views(cameras: TargetCameras, virtual_to_camera: Float[np.ndarray, "4 4"]) -> TargetCameras:
    """Return the cameras, moved by a transform in their own frames."""
    shift = torch.from_numpy(virtual_to_camera).to(cameras.camera_to_reference_ego)
    moved = cameras.camera_to_reference_ego @ shift
    return replace(cameras, camera_to_reference_ego=moved, is_valid=None)  # the vehicle is not where the view is


def paper_frame(scene: FrozenScene) -> int:
    """Return the frame that the paper's protocol scores: the second keyframe, or the first held out."""
    return 1 if 1 in scene.validation_frames else scene.validation_frames[0]


def channels_last(
    images: Float[Tensor, "views channels height width"],
) -> Float32[np.ndarray, "views height width channels"]:
    """Return a stack of images as numpy, channels last."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def swept_voxels(frames: EvaluationFrames, frame: int) -> Bool[np.ndarray, " voxels"] | None:
    """Return the voxels of the Occ3D grid in which a return of the frame's own sweep lies; None without a sweep."""
    points = frames.recorded.sweep(frame)[:, :3]
    if not len(points):
        return None
    swept = np.zeros(OCC3D_GRID.num_voxels, bool)
    swept[OCC3D_GRID.flat_of(points)] = True
    return swept


def lidar_places(frames: EvaluationFrames, frame: int) -> Float[np.ndarray, "frames 3"]:
    """Return the LiDAR's place at every frame of the scene, in the ego frame of one of them, metres.

    For a rig without a LiDAR it is a usual place above the origin.
    """
    reader = frames.stores.reader
    place = reader.lidar_to_ego[:3, 3]
    place = place if place.any() else np.array([0.0, 0.0, _USUAL_HEIGHT_M])
    in_world = np.concatenate([apply_se3(reader.ego_to_world(f), place[None]) for f in range(reader.num_frames)])
    return apply_se3(invert_se3(reader.ego_to_world(frame)), in_world)
