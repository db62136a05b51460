"""Hold features of a scene's field against those of its images: agreement of views, and words against truth."""

from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from pipeline.feature_views import read_feature_views
from pipeline.presets import PipelineConfig
from storage.geometry.resize import resize_nearest
from storage.kinds import FEATURE_SOURCES, Kind, features_kind
from storage.scenes.moving import MovingBoxes
from storage.scenes.store import SceneReader
from storage.stores.arrays import read_target
from storage.stores.versioned import Home, StoreVersion
from student.evaluation.field_features import agreement, find_same_points, nearby_views, word_precision
from student.evaluation.word_sets import occ3d_names
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.vocabulary import clip_space_of_features, occ3d_vocabulary
from teachers.nerf.feature_request import FeatureReading, FeatureView

_UNKNOWN = 255
"""Label of pixels that show none of the classes that are asked for."""


def judge_features(home: Home, scene_key: str, config: PipelineConfig, *, digest: str | None = None) -> dict[str, Any]:
    """Return figures of every source that a scene's feature field was distilled from, for images and for the field.

    Both are compared at the same points and pixels, on the grid of the images' features; what moves, the own vehicle
    and what lies outside a lens are left out. Words are scored only where the scene has exact truth, which no teacher
    reads.

    Args:
        home: Home of the stores.
        scene_key: The scene.
        config: Prompts, and how views are rendered.
        digest: The feature field; the current one by default.

    Raises:
        MissingTargetError: If the scene's features were not distilled.
    """
    field = home.require(Kind.FEATURE_FIELD, scene_key, digest)
    digests = {item.kind: item.digest for item in home.provenance(field).inputs}
    scene = SceneReader.open(home, scene_key, digests[Kind.SCENE])
    views = [FeatureView.at(f, c) for f in range(scene.num_frames) for c in range(scene.num_cameras)]
    figures: dict[str, Any] = {}
    reading: FeatureReading | None = None
    for source in FEATURE_SOURCES:
        if features_kind(source) not in digests:
            continue
        version = home.require(features_kind(source), scene_key, digests[features_kind(source)])
        group = home.open_arrays(version)
        images = read_target(group, version.kind, "features")
        images = images.reshape(len(views), *images.shape[2:])
        if reading is None or reading.termination_depth.shape[1:] != images.shape[1:3]:
            size = (images.shape[1], images.shape[2])
            _, reading = read_feature_views(
                home, scene_key, views, size, config.feature_field.execution, digest=field.digest
            )
        shown, is_static = _shows_world(scene, reading), _is_static(scene, reading)
        points = find_same_points(
            reading.points_world,
            reading.termination_depth,
            reading.camera_to_world,
            reading.intrinsics,
            np.stack([scene.fisheye(int(c)) for c in reading.camera_index]),
            shown & is_static,
            list(nearby_views(reading.frame_index, reading.camera_index)),
        )
        of_source = {"images": images, "field": reading.features[source]}
        basis = StoredFeatureBasis.read(
            home.open_arrays(home.require(Kind.FEATURE_BASIS, source, str(group.attrs["feature_basis_digest"])))
        )
        figures[source] = {
            "same_points": len(points.first),
            "agreement": {name: agreement(features, points, basis) for name, features in of_source.items()},
        }
        truth = home.latest(Kind.SCENE_TRUTH, scene_key)
        if source == "clip" and truth is not None:
            figures[source]["words"] = _words(home, version, truth, scene, reading, of_source, shown, config)
    return {"scene": scene_key, "feature_field": field.digest, "sources": figures}


def _words(
    home: Home,
    features: StoreVersion,
    truth: StoreVersion,
    scene: SceneReader,
    reading: FeatureReading,
    of_source: dict[str, np.ndarray],
    shown: Bool[np.ndarray, "views height width"],
    config: PipelineConfig,
) -> dict[str, Any]:
    space = clip_space_of_features(home, features, text_encoder=config.evaluation.text_encoder)
    vocabulary = occ3d_vocabulary(space, config.evaluation.prompt_template)
    labels = occ3d_names().of_semantics[_semantics(home, truth, scene, reading)]
    scored: dict[str, Any] = {}
    for name, values in of_source.items():
        probability = vocabulary.probability(values.astype(np.float32), space.encoder.temperature)
        precision = word_precision(probability, labels, shown & (labels != _UNKNOWN), vocabulary.prompts.names)
        scored[name] = {"mean_average_precision": float(np.mean(list(precision.values()))), "of_class": dict(precision)}
    return scored


def _semantics(
    home: Home, truth: StoreVersion, scene: SceneReader, reading: FeatureReading
) -> UInt8[np.ndarray, "views height width"]:
    group = home.open_arrays(truth)
    semantics = read_target(group, Kind.SCENE_TRUTH, "semantics")
    names = list(group.attrs["camera_names"])  # type: ignore[call-overload]
    # The writer's order of cameras need not be the recording's.
    place = np.array([names.index(name) for name in scene.camera_names])
    of_views = semantics[reading.frame_index, place[reading.camera_index]]
    return resize_nearest(of_views, *reading.termination_depth.shape[1:], axis=1)


def _shows_world(scene: SceneReader, reading: FeatureReading) -> Bool[np.ndarray, "views height width"]:
    _, height, width = reading.termination_depth.shape
    return np.stack([scene.is_valid(int(camera), size=(height, width)) for camera in reading.camera_index])


def _is_static(scene: SceneReader, reading: FeatureReading) -> Bool[np.ndarray, "views height width"]:
    moving, size = MovingBoxes.of(scene), reading.termination_depth.shape[1:]
    is_static = []
    for frame, pose, points in zip(reading.frame_index, reading.camera_to_world, reading.points_world, strict=True):
        directions = (points - pose[:3, 3]).reshape(-1, 3)
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)
        hit = moving.hit_by(int(frame), pose[:3, 3], directions.astype(np.float64))
        is_static.append(~hit.reshape(size) & np.isfinite(points).all(axis=-1))
    return np.stack(is_static)
