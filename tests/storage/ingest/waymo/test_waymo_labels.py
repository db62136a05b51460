"""Classes of LiDAR points: written from the procedural world, read back exactly, by number and name as Waymo's."""

import dataclasses

import numpy as np
import pytest

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import apply_se3
from storage.ingest.run import ingest_scene
from storage.ingest.waymo.frames import sweep_points
from storage.ingest.waymo.labels import LIDAR_CLASSES, sweep_labels
from storage.keys import SceneKey
from storage.scenes.schema import UNLABELLED
from storage.scenes.store import SceneReader
from storage.taxonomy import CLASSES
from storage.testing.waymo.classes import WAYMO_CLASS_OF, waymo_lidar_table

KEY = SceneKey("waymo", "scene-0001")
LABELLED, UNLABELLED_FRAME = 0, 1


def test_every_point_keeps_the_class_that_was_written(written, scene):
    sweeps = written.frames[LABELLED].content.sweeps
    wanted = [
        one.labels[..., 1][one.values[..., 0] > 0]
        if sweep.name == "TOP"
        else np.full(np.count_nonzero(one.values[..., 0] > 0), UNLABELLED)
        for sweep in sweeps
        for one in sweep.returns
    ]
    labels = scene.lidar_labels(LABELLED)
    np.testing.assert_array_equal(labels, np.concatenate(wanted))
    assert {"TYPE_ROAD", "TYPE_BUILDING"} <= {LIDAR_CLASSES[n] for n in np.unique(labels) if n != UNLABELLED}


def test_both_returns_are_labelled_apart(written):
    """The second return lies behind the first: often on something else."""
    first, second = written.frames[LABELLED].content.sweeps[0].returns
    both = second.values[..., 0] > 0
    differ = first.labels[..., 1][both] != second.labels[..., 1][both]
    assert differ.any()
    assert not differ.all()


def test_a_frame_that_waymo_did_not_label_has_no_classes(scene):
    labels = scene.lidar_labels(UNLABELLED_FRAME)
    assert len(labels) == len(scene.lidar_points(UNLABELLED_FRAME))
    assert (labels == UNLABELLED).all()
    assert scene.attributes["lidarseg_frames"] == [LABELLED]


def test_what_the_numbers_mean_is_recorded(scene):
    assert scene.attributes["lidarseg_categories"] == {str(n): name for n, name in enumerate(LIDAR_CLASSES)}


def test_the_numbers_are_waymos():
    module = pytest.importorskip("waymo_open_dataset.protos.segmentation_pb2")
    assert dict(module.Segmentation.Type.items()) == {name: number for number, name in enumerate(LIDAR_CLASSES)}


def test_a_point_is_labelled_with_what_it_lies_on(written, scene):
    """Class and place of a point go through the reader on different ways: the road must lie under the wheels."""
    labels, points = scene.lidar_labels(LABELLED), scene.lidar_points(LABELLED)
    world = apply_se3(scene.ego_to_world(LABELLED), points[:, :3].astype(np.float64))
    road = labels == LIDAR_CLASSES.index("TYPE_ROAD")
    building = labels == LIDAR_CLASSES.index("TYPE_BUILDING")
    assert np.ptp(np.percentile(world[road, 2], [2, 98])) < 0.5
    assert np.percentile(world[building, 2], 90) > world[road, 2].max() + 1.0


def test_a_recording_without_labels_says_so(written, tmp_path, request):
    from storage.stores.versioned import Home
    from storage.testing.waymo import writer as waymo_writer
    from storage.testing.waymo.writer import generate_waymo_dataset

    frames = [_without_labels(frame) for frame in written.frames]
    home = Home(tmp_path / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waymo_writer, "captured_frames", lambda *_: (written.capture, iter(frames)))
        source_format = "waymo_v2" if (written.root / "lidar_segmentation").is_dir() else "waymo_v1"
        generate_waymo_dataset(home, tmp_path / "raw", written.config, source_format=source_format)
    ingest_scene(home, KEY)
    scene = SceneReader.open(home, KEY)
    assert scene.lidar_labels(LABELLED) is None
    assert scene.attributes["lidarseg_categories"] == {}
    assert scene.attributes["lidarseg_frames"] == []


def _without_labels(frame):
    sweeps = tuple(
        dataclasses.replace(s, returns=tuple(dataclasses.replace(r, labels=None) for r in s.returns))
        for s in frame.content.sweeps
    )
    return dataclasses.replace(
        frame,
        header=dataclasses.replace(frame.header, has_lidar_labels=False),
        content=dataclasses.replace(frame.content, sweeps=sweeps),
    )


def test_a_return_without_classes_leaves_its_points_unlabelled(captured):
    capture, frames = captured
    sweep = frames[LABELLED].content.sweeps[0]
    first, second = sweep.returns
    half = dataclasses.replace(sweep, returns=(first, dataclasses.replace(second, labels=None)))
    labels = sweep_labels(half, "TOP")
    points = sweep_points(half, capture.lasers["TOP"], frames[LABELLED].header.ego_to_global, "TOP")
    num_first = np.count_nonzero(first.values[..., 0] > 0)
    assert len(labels) == len(points) > num_first
    assert (labels[num_first:] == UNLABELLED).all()
    assert (labels[:num_first] != UNLABELLED).all()


@pytest.mark.parametrize("value", [-1, len(LIDAR_CLASSES), UNLABELLED, 300])
def test_a_class_that_waymo_does_not_define_is_refused(captured, value):
    sweep = captured[1][LABELLED].content.sweeps[0]
    first = sweep.returns[0]
    row, column = (int(i) for i in np.argwhere(first.values[..., 0] > 0)[3])
    labels = first.labels.copy()
    labels[row, column, 1] = value
    wrong = dataclasses.replace(sweep, returns=(dataclasses.replace(first, labels=labels), sweep.returns[1]))
    with pytest.raises(SourceDataError) as caught:
        sweep_labels(wrong, "frame/TOP")
    assert (caught.value.kind, caught.value.key) == (ErrorKind.LIDAR_INVALID, "frame/TOP, return 1")
    assert f"pixel ({row}, {column}) has class {value}, want 0 to 22" in caught.value.message


def test_a_class_where_nothing_came_back_is_nobodys_business(captured):
    sweep = captured[1][LABELLED].content.sweeps[0]
    first = sweep.returns[0]
    labels = np.where((first.values[..., 0] > 0)[..., None], first.labels, 999)
    odd = dataclasses.replace(sweep, returns=(dataclasses.replace(first, labels=labels), sweep.returns[1]))
    np.testing.assert_array_equal(sweep_labels(odd, "TOP"), sweep_labels(sweep, "TOP"))


def test_every_class_of_the_procedural_world_has_a_waymo_class():
    assert set(WAYMO_CLASS_OF) == {entry.name for entry in CLASSES}
    table = waymo_lidar_table()
    assert {LIDAR_CLASSES[table[c.class_id]] for c in CLASSES} == set(WAYMO_CLASS_OF.values())
