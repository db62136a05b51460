"""Labels and occupancy in other projects' formats, read back as those projects read them."""

import json
import shutil

import numpy as np
import pytest
import trimesh
from PIL import Image

from pipeline.cli import main
from pipeline.run_config import HomeSelection
from storage.digests import config_json
from storage.errors import MissingTargetError, SourceDataError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.ingest.nuscenes.occ3d import read_labels
from storage.keys import SceneKey
from storage.stores.arrays import read_target, write_target
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, materialize_arrays
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN, OCC3D_UNNAMED, SKY_ID
from student.applications.export_labels import (
    LabelNames,
    export_coco_panoptic,
    export_point_clouds,
    id_to_rgb,
    panoptic_segments,
)
from student.applications.export_occupancy import export_occupancy
from student.applications.weak_labels import export_weak_labels
from student.evaluation.config import WeakLabelConfig
from student.evaluation.evaluate import evaluate_checkpoint
from tests.student.evaluation.conftest import CAR, NUM_CAMERAS, NUM_FRAMES, SMALL_EVALUATION, shift_of, voxel_labels

SCENE = SceneKey.parse("yard.b")
YARD = "name: yard\nclasses:\n  automobile: {synonyms: [car, sedan], threshold: 0.5}\n"


@pytest.fixture
def labelled(oracle, tmp_path):
    """Labels of a student that tells the truth, with own classes."""
    evaluate_checkpoint(oracle.home, "oracle", SMALL_EVALUATION)  # chooses the temperature that makes it sure
    (tmp_path / "yard.yaml").write_text(YARD)
    config = WeakLabelConfig(classes=str(tmp_path / "yard.yaml"))
    return oracle.home, export_weak_labels(oracle.home, SCENE, "oracle", config).version


def test_weak_labels_in_occ3ds_layout_are_read_back_as_they_were(labelled, tmp_path):
    home, version = labelled
    made = export_occupancy(home, version, tmp_path / "out")
    assert (made.num_frames, made.unlabelled_frames, made.unnamed_frames) == (NUM_FRAMES, 0, 0)
    for frame in range(NUM_FRAMES):
        read = read_labels(tmp_path / "out" / "gts" / "b" / f"{frame:06d}" / "labels.npz")
        truth = voxel_labels(shift_of(1, frame)).reshape(OCC3D_GRID.shape)
        assert 0.01 < read.mask_camera.mean() < 0.9
        np.testing.assert_array_equal(read.semantics[read.mask_camera], truth[read.mask_camera])
        assert (read.semantics[read.mask_camera] == CAR).any()  # label 18 of the list is a car in Occ3D's
        assert (read.semantics[~read.mask_camera] == OCC3D_FREE).all()
        assert not read.mask_lidar.any()
    record = json.loads((made.folder / "export.json").read_text())
    assert record["made_from"]["digest"] == version.digest
    assert record["prompts"]["automobile"] == [["automobile", "car", "sedan"]]
    assert record["thresholds"] == {"automobile": 0.5}
    assert record["checkpoint"]["digest"] == home.require("student_checkpoint", "oracle").digest


def test_occupancy_labels_go_out_as_they_came_in(world, tmp_path, monkeypatch, capsys):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    world.publish_labels(home, unlabelled=[("yard.b", 1)])
    monkeypatch.setattr(HomeSelection, "load", classmethod(lambda *_: HomeSelection(preset="tiny", variant="clip")))
    arguments = ["export", "occupancy", str(SCENE), "--out", str(tmp_path / "out"), "--home", str(home.root)]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{NUM_FRAMES - 1} frames in" in said
    assert "1 without labels" in said
    group = home.open_arrays(home.require("occupancy_labels", str(SCENE)))
    files = sorted((tmp_path / "out").rglob("labels.npz"))
    assert [path.parent.name for path in files] == ["000000", "000002"]
    for frame, path in zip((0, 2), files, strict=True):
        read = read_labels(path)
        for name, found in {
            "voxel_label": read.semantics,
            "is_visible": read.mask_camera,
            "is_scanned": read.mask_lidar,
        }.items():
            np.testing.assert_array_equal(found, read_target(group, "occupancy_labels", name, frame))
    assert main(arguments) == 0  # again, over its own files
    (files[0].parents[1] / "export.json").unlink()
    before = files[0].read_bytes()
    capsys.readouterr()
    assert main(arguments) == 2  # labels that came with a recording are never written over
    assert "holds labels that no export wrote" in capsys.readouterr().err
    assert files[0].read_bytes() == before
    shutil.rmtree(files[0].parents[1])
    assert main([*arguments, "--from", "lidar_occupancy"]) == 1
    assert "lidar_occupancy/yard.b" in capsys.readouterr().err


@pytest.mark.parametrize("grid", [config_json(OCC3D_GRID), {"minimum": [0, 0, 0], "voxel_size": 1, "shape": [9, 9, 9]}])
def test_lidar_occupancy_says_what_occ3d_cannot(world, tmp_path, grid):
    home = Home(tmp_path / "home")
    shutil.copytree(world.home.root, home.root)
    labels = np.full((NUM_FRAMES, *OCC3D_GRID.shape), OCC3D_FREE, np.uint8)
    labels[:, :50], labels[:, 60:62], labels[:, 70] = OCC3D_UNKNOWN, OCC3D_UNNAMED, CAR
    everywhere = np.ones(labels.shape, bool)

    def write(group):
        for name, data in {"voxel_label": labels, "is_visible": everywhere, "is_scanned": everywhere}.items():
            write_target(group, "lidar_occupancy", name, data)
        write_target(group, "lidar_occupancy", "num_beams", np.ones(labels.shape, np.uint16))
        group.attrs["grid"] = grid
        return {}

    scene = InputVersion("scene", "yard.b", home.require("scene", "yard.b").digest)
    version = materialize_arrays(
        home, Provenance(kind="lidar_occupancy", partition="yard.b", inputs=(scene,), licence="CC0-1.0"), write
    ).version
    if grid["voxel_size"] == 1:
        with pytest.raises(SourceDataError, match="has the grid"):
            export_occupancy(home, version, tmp_path / "out")
        return
    made = export_occupancy(home, version, tmp_path / "out")
    read = read_labels(made.folder / "000000" / "labels.npz")
    assert made.unnamed_voxels == NUM_FRAMES * 2 * 200 * 16
    assert made.unknown_voxels == NUM_FRAMES * 50 * 200 * 16
    assert (read.semantics[60:62] == 0).all()
    assert (read.semantics[70] == CAR).all()
    assert not read.mask_camera[:50].any()
    assert not read.mask_lidar[:50].any()
    assert read.mask_camera[50:].all()


def test_coco_panoptic_is_what_its_format_says(labelled, tmp_path):
    home, version = labelled
    path = export_coco_panoptic(home, version, tmp_path)
    content = json.loads(path.read_text())
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    categories = {entry["id"]: entry for entry in content["categories"]}
    assert len(categories) == len(content["categories"])
    assert 0 not in categories
    assert categories[19]["name"] == "automobile"
    assert (categories[19]["isthing"], categories[19]["supercategory"], categories[19]["threshold"]) == (1, "car", 0.5)
    assert (categories[SKY_ID + 1]["name"], categories[SKY_ID + 1]["isthing"]) == ("sky", 0)
    images = {entry["id"]: entry for entry in content["images"]}
    assert len(images) == len(content["annotations"]) == NUM_FRAMES * NUM_CAMERAS
    seen = set()
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        png = np.asarray(Image.open(tmp_path / "panoptic" / annotation["file_name"])).astype(np.int64)
        assert png.shape == (image["height"], image["width"], 3)
        with Image.open(tmp_path / "images" / image["file_name"]) as photo:
            assert photo.size == (image["width"], image["height"])
        ids = png @ np.array([1, 256, 256**2])
        segments = {entry["id"]: entry for entry in annotation["segments_info"]}
        assert len(segments) == len(annotation["segments_info"])
        assert set(np.unique(ids).tolist()) - {0} == set(segments)
        for identity, segment in segments.items():
            rows, columns = np.nonzero(ids == identity)
            assert segment["area"] == len(rows)
            x, y, width, height = segment["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert segment["category_id"] in categories
            assert segment["iscrowd"] == 0
            seen.add(segment["category_id"])
    assert {19, SKY_ID + 1, 12} <= seen
    assert content["info"]["checkpoint"]["variant"] == "oracle"
    plain = export_weak_labels(home, SCENE, "oracle", WeakLabelConfig(pixel_labels=False)).version
    with pytest.raises(MissingTargetError, match="voxels alone"):
        export_coco_panoptic(home, plain, tmp_path)


def test_things_are_counted_one_by_one_and_stuff_is_not():
    names = LabelNames(names={4: "car", 11: "road"}, occ3d={4: 4, 11: 11})
    labels = np.array([[4, 4, 11, 4], [11, 254, 11, 4]], np.uint8)
    segments, infos = panoptic_segments(labels, np.linspace(0.1, 0.8, 8).reshape(2, 4), names)
    assert segments.tolist() == [[1, 1, 3, 2], [3, 0, 3, 2]]
    assert [(info["category_id"], info["area"], info["bbox"]) for info in infos] == [
        (5, 2, [0, 0, 2, 1]),
        (5, 2, [3, 0, 1, 2]),
        (12, 3, [0, 0, 3, 2]),
    ]
    assert infos[0]["score"] == pytest.approx(0.15)
    assert id_to_rgb(np.array([[1, 256, 65536 + 2]])).tolist() == [[[1, 0, 0], [0, 1, 0], [2, 0, 1]]]


def test_a_point_cloud_holds_the_occupied_voxels_and_their_labels(labelled, tmp_path):
    home, version = labelled
    folder = export_point_clouds(home, version, tmp_path)
    cloud = trimesh.load(folder / "000001.ply")
    labels = cloud.metadata["_ply_raw"]["vertex"]["data"]["label"]
    stored = read_target(home.open_arrays(version), "weak_labels", "voxel_label", 1)
    index, inside = OCC3D_GRID.index_of(np.asarray(cloud.vertices))
    assert inside.all()
    np.testing.assert_array_equal(stored[tuple(index.T)], labels)
    assert len(labels) == ((stored != OCC3D_FREE) & (stored != OCC3D_UNKNOWN)).sum()
    record = json.loads((folder / "export.json").read_text())
    assert record["labels"]["18"] == "automobile"
