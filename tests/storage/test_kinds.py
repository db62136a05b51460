"""The registry of kinds, and real scenes held against it."""

from collections.abc import Callable

import numpy as np
import pytest
import zarr

from storage.errors import IntegrityError
from storage.kinds import FEATURE_SOURCES, KINDS, Kind, StoreForm, features_kind, is_trainable, trainable_kinds
from storage.scenes.schema import SceneBoxes, SceneData, SceneFrame
from storage.scenes.store import write_scene
from storage.stores.arrays import check_target

NEVER_LEARNED_FROM = (Kind.SCENE_TRUTH, Kind.WEAK_LABELS)


def test_every_name_is_declared_once() -> None:
    assert list(KINDS) == [spec.name for spec in KINDS.values()]
    assert set(KINDS) == set(Kind)


@pytest.mark.parametrize("kind", list(trainable_kinds()))
def test_a_student_learns_from_frames_of_cameras(kind: Kind) -> None:
    spec = KINDS[kind]
    assert spec.form is StoreForm.ARRAYS
    assert spec.partitioned_by == "scene"
    assert any(array.axes[:2] == ("frames", "cameras") for array in spec.arrays.values())


@pytest.mark.parametrize("kind", NEVER_LEARNED_FROM)
def test_truth_and_a_students_own_labels_are_never_learned_from(kind: Kind) -> None:
    assert not is_trainable(kind)
    assert kind not in trainable_kinds()


def test_what_is_not_declared_is_not_learned_from() -> None:
    assert not is_trainable("made_up")


def test_each_feature_source_has_features_to_learn_from() -> None:
    assert [features_kind(source) for source in FEATURE_SOURCES] == [Kind.DINOV2_FEATURES, Kind.CLIP_FEATURES]
    assert all(is_trainable(features_kind(source)) for source in FEATURE_SOURCES)
    with pytest.raises(ValueError, match="made_up_features"):
        features_kind("made_up")


def test_files_have_no_arrays_and_arrays_have_known_dtypes() -> None:
    for spec in KINDS.values():
        assert not spec.arrays or spec.form is StoreForm.ARRAYS, spec.name
        for name, array in spec.arrays.items():
            assert np.dtype(array.dtype).name == array.dtype, f"{spec.name}/{name}"


# --- scenes as they are written ------------------------------------------------------------------------------------


def scene() -> SceneData:
    """Return two frames of two cameras; one camera shows its own vehicle."""
    return SceneData(
        camera_names=("LEFT", "RIGHT"),
        image_sizes=((3, 4), (2, 5)),
        intrinsics=np.tile(np.eye(3), (2, 1, 1)),
        is_valid=(np.ones((3, 4), bool), None),
        camera_to_ego=np.tile(np.eye(4), (2, 1, 1)),
        timestamp_us=np.array([0, 1]),
        ego_to_world=np.tile(np.eye(4), (2, 1, 1)),
        camera_timestamp_us=np.zeros((2, 2), np.int64),
        camera_ego_to_world=np.tile(np.eye(4), (2, 2, 1, 1)),
        lidar_to_ego=np.eye(4),
        boxes=SceneBoxes.none(),
    )


def frames(*, labelled: bool) -> list[SceneFrame]:
    return [
        SceneFrame(
            jpegs=(b"left", b"right"),
            points=np.zeros((3, 4), np.float32),
            labels=np.zeros(3, np.uint8) if labelled else None,
            panoptics=(b"png", b"") if labelled else None,
        )
        for _ in range(2)
    ]


@pytest.fixture
def group() -> zarr.Group:
    written = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(written, scene(), frames(labelled=True))
    return written


@pytest.mark.parametrize("labelled", [True, False])
def test_a_scene_as_it_is_written_fits(labelled: bool) -> None:
    written = zarr.create_group(zarr.storage.MemoryStore())
    write_scene(written, scene(), frames(labelled=labelled))
    check_target(written, Kind.SCENE)


def _wrong_dtype(group: zarr.Group) -> None:
    del group["intrinsics"]
    group.create_array("intrinsics", data=np.zeros((2, 3, 3), np.float32))


def _other_cameras(group: zarr.Group) -> None:
    del group["camera_to_ego"]
    group.create_array("camera_to_ego", data=np.tile(np.eye(4), (3, 1, 1)))


def _mask_of_points(group: zarr.Group) -> None:
    del group["lidar/labels"]
    group.create_array("lidar/labels", data=np.zeros(4, np.uint8))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda group: group.__delitem__("images/RIGHT"), "scene/images/RIGHT/bytes"),
        (lambda group: group.__delitem__("images/RIGHT/offsets"), "scene/images/RIGHT/offsets"),
        (lambda group: group.__delitem__("boxes/centre"), "scene/boxes/centre"),
        (lambda group: group.attrs.__delitem__("camera_names"), "scene/camera_names"),
        (_wrong_dtype, "scene/intrinsics"),
        (_other_cameras, "scene/camera_to_ego"),
        (_mask_of_points, "scene/lidar/labels"),
    ],
)
def test_a_scene_that_lacks_or_bends_an_array_is_refused(
    group: zarr.Group, damage: Callable[[zarr.Group], None], named: str
) -> None:
    damage(group)
    with pytest.raises(IntegrityError, match=named):
        check_target(group, Kind.SCENE)
