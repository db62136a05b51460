"""The table of all kinds of stored versions: form, partitions, arrays, quality gate, and use in training.

Schemas, gates, the kinds that a student must not learn from, lists of targets, pictures and ``docs/store-format.md``
all derive from :data:`KINDS`. A new kind starts here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, get_args

from storage.geometry.voxel_grid import OCC3D_GRID


class Kind(StrEnum):
    """Name of a kind; it is also the name of the Dagster asset that makes it."""

    SCENE = "scene"
    SCENE_AUDIT = "scene_audit"
    INPUT_IMAGES = "input_images"
    SCENE_TRUTH = "scene_truth"
    OCCUPANCY_LABELS = "occupancy_labels"
    LIDAR_OCCUPANCY = "lidar_occupancy"
    SKY_MASK = "sky_mask"
    DEPTH_ANYTHING_FEATURES = "depth_anything_features"
    FEATURE_BASIS = "feature_basis"
    DINOV2_FEATURES = "dinov2_features"
    CLIP_FEATURES = "clip_features"
    REGION_INDEX = "region_index"
    NERF_TEACHER = "nerf_teacher"
    TEACHER_DEPTH = "teacher_depth"
    VIRTUAL_VIEWS = "virtual_views"
    TEACHER_OCCUPANCY = "teacher_occupancy"
    FEATURE_FIELD = "feature_field"
    TEACHER_FEATURES = "teacher_features"
    TRAINING_SET = "training_set"
    STUDENT_CHECKPOINT = "student_checkpoint"
    STUDENT_EVALUATION = "student_evaluation"
    TRANSFER_EVALUATION = "transfer_evaluation"
    REPORT = "report"
    WEAK_LABELS = "weak_labels"
    FINETUNED_HEAD = "finetuned_head"
    LABEL_SHEET = "label_sheet"
    LABEL_VERDICTS = "label_verdicts"


class StoreForm(StrEnum):
    """Layout of a version: arrays in an Icechunk repository, or a folder of files."""

    ARRAYS = "arrays"
    FILES = "files"


FeatureSource = Literal["dinov2", "clip"]
"""Foundation models whose features are reduced by a basis and learned."""

FEATURE_SOURCES: tuple[FeatureSource, ...] = get_args(FeatureSource)

Partitioning = Literal["scene", "feature_source", "variant"]
"""Meaning of one partition of a kind: a scene, a foundation model, or a student."""

Picture = Literal["scene", "images", "depth", "sky", "features", "semantics", "voxels", "file"]
"""Thumbnail of a version; ``file`` shows the picture that its builder stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of a store.

    Attributes:
        dtype: Numpy dtype name at rest.
        axes: Axis names. Equal names have equal length within one store; a number is a fixed length.
        unit: Unit of a value: ``m``, ``px``, ``us``, or empty where it has none.
        undefined: Marker of an undefined value; empty where every value is defined.
        optional: True if a store may lack the array.
    """

    dtype: str
    axes: tuple[str, ...]
    unit: str = ""
    undefined: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSpec:
    """Declaration of one kind of stored version.

    Attributes:
        name: The kind.
        holds: Content of a version, one sentence for people.
        form: Arrays or files.
        partitioned_by: Meaning of one partition.
        arrays: Declared arrays by path; ``<camera>`` in a path or an axis stands for the name of each camera.
        is_gated: Whether its builder measures a quality gate, which training sets require.
        is_trainable: Whether a student may learn from it. Training sets and loaders refuse all other kinds.
        picture: Thumbnail to draw; None for no thumbnail.
    """

    name: Kind
    holds: str
    form: StoreForm = StoreForm.ARRAYS
    partitioned_by: Partitioning = "scene"
    arrays: Mapping[str, ArraySpec] = field(default_factory=dict)
    is_gated: bool = False
    is_trainable: bool = False
    picture: Picture | None = None


def _array(dtype: str, axes: str, unit: str = "", undefined: str = "", *, optional: bool = False) -> ArraySpec:
    return ArraySpec(dtype=dtype, axes=tuple(axes.split()), unit=unit, undefined=undefined, optional=optional)


_IMAGE_AXES = "frames cameras height width"
_VIEW_AXES = "frames cameras views height width"
_GRID_AXES = " ".join(map(str, ("frames", *OCC3D_GRID.shape)))
_NO_SURFACE = "NaN: the ray meets no surface"
_NO_TRUST = "NaN: the ray meets no surface, or one that is not valid"
_FEATURES = {
    "features": _array("float16", "frames cameras grid_height grid_width channels"),
    "is_valid": _array("bool", "cameras grid_height grid_width", optional=True),  # absent: no camera sees its vehicle
}
_INTRINSICS = _array("float64", "cameras 3 3", "px")
_FISHEYE = _array("float64", "cameras 4", "", "NaN: the camera is a pinhole", optional=True)

_KINDS = (
    KindSpec(
        name=Kind.SCENE,
        holds="One recorded scene: images as recorded, rig, ego poses at every exposure, LiDAR, boxes.",
        arrays={
            "intrinsics": _INTRINSICS,
            "fisheye": _FISHEYE,
            "camera_to_ego": _array("float64", "cameras 4 4", "m"),
            "lidar_to_ego": _array("float64", "4 4", "m"),
            "timestamp_us": _array("int64", "frames", "us"),
            "ego_to_world": _array("float64", "frames 4 4", "m"),
            "camera_timestamp_us": _array("int64", "frames cameras", "us"),
            "camera_ego_to_world": _array("float64", "frames cameras 4 4", "m"),
            "images/<camera>/bytes": _array("uint8", "<camera>_image_bytes"),
            "images/<camera>/offsets": _array("int64", "frames_and_end"),
            "is_valid/<camera>": _array("bool", "<camera>_height <camera>_width", optional=True),
            "panoptic/<camera>/bytes": _array("uint8", "<camera>_panoptic_bytes", optional=True),
            "panoptic/<camera>/offsets": _array("int64", "frames_and_end", optional=True),
            "lidar/points": _array("float32", "points 4", "m, intensity"),
            "lidar/labels": _array("uint8", "points", "", "255: nobody labelled the point", optional=True),
            "lidar/offsets": _array("int64", "frames_and_end"),
            "boxes/frame_index": _array("int64", "boxes"),
            "boxes/centre": _array("float64", "boxes 3", "m"),
            "boxes/size": _array("float64", "boxes 3", "m"),
            "boxes/quat_wxyz": _array("float64", "boxes 4"),
            "boxes/num_lidar_points": _array("int64", "boxes", "", "-1: nobody counted them"),
        },
        is_trainable=True,
        picture="scene",
    ),
    KindSpec(
        name=Kind.SCENE_AUDIT,
        holds="Whether the geometry of a scene is what its sensors saw, with pictures of LiDAR over its images.",
        form=StoreForm.FILES,
        is_gated=True,
        picture="file",
    ),
    KindSpec(
        name=Kind.INPUT_IMAGES,
        holds="Every image of a scene at the size that the student reads, with intrinsics scaled to it.",
        arrays={
            "image": _array("uint8", f"{_IMAGE_AXES} 3"),
            "intrinsics": _INTRINSICS,
            "fisheye": _FISHEYE,  # stores from before fisheyes lack it and hold pinholes alone
        },
        is_trainable=True,
        picture="images",
    ),
    KindSpec(
        name=Kind.SCENE_TRUTH,
        holds="Exact depth, semantics, instances and occupancy of a procedural scene; evaluation alone reads it.",
        arrays={
            "termination_depth": _array("float32", _IMAGE_AXES, "m", _NO_SURFACE),
            "semantics": _array("uint8", _IMAGE_AXES, "", "255: sky; 254: outside the lens"),
            "instance": _array("uint16", _IMAGE_AXES, "", "0: surroundings and sky"),
            "surface": _array("uint8", _IMAGE_AXES, "", "255: no surface", optional=True),  # older truth lacks it
            "occupancy": _array("uint8", _GRID_AXES),
            "occupancy_is_visible": _array("bool", _GRID_AXES),
            "occupancy_is_scanned": _array("bool", _GRID_AXES, optional=True),
        },
        picture="semantics",
    ),
    KindSpec(
        name=Kind.OCCUPANCY_LABELS,
        holds="Semantic occupancy that came with a recording, in Occ3D's form, for evaluation and fine-tuned heads.",
        arrays={
            "voxel_label": _array("uint8", _GRID_AXES, "", "255: the frame has no labels"),
            "is_visible": _array("bool", _GRID_AXES),
            "is_scanned": _array("bool", _GRID_AXES),
        },
        picture="voxels",
    ),
    KindSpec(
        name=Kind.LIDAR_OCCUPANCY,
        holds="Occupied, free and unknown voxels around each frame by the beams of many sweeps, for evaluation.",
        arrays={
            "voxel_label": _array("uint8", "frames x y z", "", "254: occupied, of no known class; 255: unknown"),
            "num_beams": _array("uint16", "frames x y z"),
            "is_visible": _array("bool", "frames x y z"),
            "is_scanned": _array("bool", "frames x y z"),
        },
        picture="voxels",
    ),
    KindSpec(
        name=Kind.SKY_MASK,
        holds="Where each image shows sky, as probability and as mask.",
        arrays={
            "is_sky": _array("bool", _IMAGE_AXES),
            "sky_probability": _array("float16", _IMAGE_AXES),
            "is_valid": _array("bool", "cameras height width", optional=True),  # absent: no camera sees its vehicle
            "image_semantics": _array("uint8", _IMAGE_AXES, "", "255: the vehicle itself", optional=True),
        },
        is_gated=True,
        is_trainable=True,
        picture="sky",
    ),
    KindSpec(
        name=Kind.DEPTH_ANYTHING_FEATURES,
        holds="The last fusion map of a monocular depth model, its inverse depth, and what makes metres of it.",
        arrays={
            **_FEATURES,
            "inverse_depth": _array("float16", "frames cameras grid_height grid_width", optional=True),
            "alignment": _array("float32", "frames cameras 3", "", "NaN: too few LiDAR returns", optional=True),
        },
        is_gated=True,
        is_trainable=True,
        picture="features",
    ),
    KindSpec(
        name=Kind.FEATURE_BASIS,
        holds="PCA of a foundation model's features, fitted on a declared sample of training frames.",
        partitioned_by="feature_source",
        arrays={
            "mean": _array("float32", "features"),
            "components": _array("float32", "features channels"),
            "minimum": _array("float32", "channels"),
            "maximum": _array("float32", "channels"),
            "explained_variance_ratio": _array("float32", "channels"),
        },
        is_gated=True,
    ),
    KindSpec(
        name=Kind.DINOV2_FEATURES,
        holds="DINOv2 patch features of every image, reduced by the basis to [0, 1].",
        arrays=_FEATURES,
        is_gated=True,
        is_trainable=True,
        picture="features",
    ),
    KindSpec(
        name=Kind.CLIP_FEATURES,
        holds="Dense CLIP features of every image, reduced by the basis to [0, 1].",
        arrays=_FEATURES,
        is_gated=True,
        is_trainable=True,
        picture="features",
    ),
    KindSpec(
        name=Kind.REGION_INDEX,
        holds="Every image of every scene as regions of like features, by which things are found over a whole home.",
        partitioned_by="feature_source",
        arrays={
            "features": _array("uint8", "regions channels"),
            "place": _array("int32", "regions 3"),
        },
    ),
    KindSpec(
        name=Kind.NERF_TEACHER,
        holds="A neural field of one scene: weights, configuration and a picture of a held-out frame.",
        form=StoreForm.FILES,
        is_gated=True,
        picture="file",
    ),
    KindSpec(
        name=Kind.TEACHER_DEPTH,
        holds="Termination depth and opacity at every training camera, rendered from the field.",
        arrays={
            "termination_depth": _array("float16", _IMAGE_AXES, "m", _NO_TRUST),
            "opacity": _array("float16", _IMAGE_AXES),
            "is_valid": _array("bool", _IMAGE_AXES, optional=True),  # stores from before validity lack it
            "intrinsics": _INTRINSICS,
        },
        is_gated=True,
        is_trainable=True,
        picture="depth",
    ),
    KindSpec(
        name=Kind.VIRTUAL_VIEWS,
        holds="Images and depth rendered from the field at poses that the car never had.",
        arrays={
            "image": _array("uint8", f"{_VIEW_AXES} 3"),
            "termination_depth": _array("float16", _VIEW_AXES, "m", _NO_TRUST),
            "opacity": _array("float16", _VIEW_AXES),
            "is_valid": _array("bool", _VIEW_AXES, optional=True),  # stores from before validity lack it
            "virtual_to_camera": _array("float64", "views 4 4", "m"),
            "intrinsics": _INTRINSICS,
        },
        is_gated=True,
        is_trainable=True,
        picture="images",
    ),
    KindSpec(
        name=Kind.TEACHER_OCCUPANCY,
        holds="How opaque the field holds the voxels around some frames for: a rival of the student in its evaluation.",
        arrays={"opacity": _array("float16", _GRID_AXES, "", "NaN: the frame was not asked")},
    ),
    KindSpec(
        name=Kind.FEATURE_FIELD,
        holds="Foundation features distilled into the scene's field: weights and configuration.",
        form=StoreForm.FILES,
        is_gated=True,
    ),
    KindSpec(
        name=Kind.TEACHER_FEATURES,
        holds="The feature field rendered at every camera, one array for each foundation model that it was taught.",
        arrays={
            source: _array("float16", f"frames cameras grid_height grid_width {source}_channels", optional=True)
            for source in FEATURE_SOURCES
        },
        is_gated=True,
        is_trainable=True,
        picture="features",
    ),
    KindSpec(
        name=Kind.TRAINING_SET,
        holds="The exact version of every store that a student will read, split included, as a manifest in attributes.",
        partitioned_by="variant",
    ),
    KindSpec(
        name=Kind.STUDENT_CHECKPOINT,
        holds="A student: weights, configuration, model card, bill of materials.",
        form=StoreForm.FILES,
        partitioned_by="variant",
        is_gated=True,
        picture="file",
    ),
    KindSpec(
        name=Kind.STUDENT_EVALUATION,
        holds="Scores on held-out frames with definitions, intervals and baselines, and the pictures behind them.",
        form=StoreForm.FILES,
        partitioned_by="variant",
        picture="file",
    ),
    KindSpec(
        name=Kind.TRANSFER_EVALUATION,
        holds="Scores of a student on scenes outside its training set, of this home or of another rig and data set.",
        form=StoreForm.FILES,
        partitioned_by="variant",
        picture="file",
    ),
    KindSpec(
        name=Kind.REPORT,
        holds="One self-contained page about an evaluation.",
        form=StoreForm.FILES,
        partitioned_by="variant",
        picture="file",
    ),
    KindSpec(
        name=Kind.WEAK_LABELS,
        holds="Labels that a student gives a scene; never a training target of a student here.",
        arrays={
            "voxel_label": _array("uint8", _GRID_AXES),
            "voxel_probability": _array("float16", _GRID_AXES),
            "pixel_label": _array("uint8", _IMAGE_AXES, "", "255: sky; 254: the pixel shows nothing", optional=True),
            "pixel_probability": _array("float16", _IMAGE_AXES, "", "NaN: the pixel shows nothing", optional=True),
        },
        picture="voxels",
    ),
    KindSpec(
        name=Kind.FINETUNED_HEAD,
        holds="A head that was trained on labelled voxels: weights, configuration, calibration, scores, card.",
        form=StoreForm.FILES,
        partitioned_by="variant",
    ),
    KindSpec(
        name=Kind.LABEL_SHEET,
        holds="A random sample of weak labels of each class, and a page on which a person judges them.",
        form=StoreForm.FILES,
        partitioned_by="variant",
    ),
    KindSpec(
        name=Kind.LABEL_VERDICTS,
        holds="What a person said of sampled weak labels, with precision and interval of each class.",
        form=StoreForm.FILES,
        partitioned_by="variant",
    ),
)

KINDS: Mapping[str, KindSpec] = MappingProxyType({spec.name: spec for spec in _KINDS})
"""Declaration of every kind, by name."""


def is_trainable(kind: str) -> bool:
    """Return whether a student may learn from a kind; False for an unknown kind."""
    return kind in KINDS and KINDS[kind].is_trainable


def trainable_kinds() -> Iterator[Kind]:
    """Yield the kinds that a student may learn from."""
    return (spec.name for spec in KINDS.values() if spec.is_trainable)


def features_kind(feature_source: str) -> Kind:
    """Return the kind that holds the features of a foundation model.

    Raises:
        ValueError: If there is no such kind.
    """
    return Kind(f"{feature_source}_features")
