import numpy as np
import pytest

from storage.errors import MissingTargetError
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.scenes.store import SceneReader
from storage.stores import catalog
from storage.stores.arrays import read_target
from storage.targets.images import InputImagesConfig, resize_scene_images

KEY = SceneKey("tiny", "scene-0001")
CONFIG = InputImagesConfig(height=6, width=10)


def test_every_image_comes_at_the_size_asked_for(tiny_home):
    ingest_scene(tiny_home, KEY)
    made = resize_scene_images(tiny_home, KEY, CONFIG)
    group, scene = tiny_home.open_arrays(made.version), SceneReader.open(tiny_home, KEY)

    images = read_target(group, "input_images", "image")
    assert images.shape == (3, 2, 6, 10, 3)
    for frame in range(3):
        for camera in range(2):
            np.testing.assert_array_equal(images[frame, camera], scene.resized_image(frame, camera, height=6, width=10))
    wanted = np.diag([10 / 32, 6 / 18, 1.0]) @ scene.intrinsics(0)
    np.testing.assert_allclose(read_target(group, "input_images", "intrinsics")[0], wanted)
    assert np.isnan(read_target(group, "input_images", "fisheye")).all()  # this rig has pinholes alone
    assert group.attrs["camera_names"] == ["CAM_FRONT", "CAM_BACK"]


def test_it_is_made_once_for_each_size_and_scene_version(tiny_home, tiny):
    ingest_scene(tiny_home, KEY)
    first = resize_scene_images(tiny_home, KEY, CONFIG)
    assert resize_scene_images(tiny_home, KEY, CONFIG).reused
    assert not resize_scene_images(tiny_home, KEY, InputImagesConfig(height=3, width=5)).reused
    tiny.set("ego_pose", "scene-0001/1/CAM_BACK", translation=[602.0, 1600.6, 0.0])
    scene = ingest_scene(tiny_home, KEY).version
    second = resize_scene_images(tiny_home, KEY, CONFIG)
    assert not second.reused
    assert second.version.digest != first.version.digest
    assert [i.digest for i in tiny_home.provenance(second.version).inputs] == [scene.digest]


def test_licence_and_calibration_come_along(tiny_home):
    scene = tiny_home.provenance(ingest_scene(tiny_home, KEY).version)
    images = tiny_home.provenance(resize_scene_images(tiny_home, KEY, CONFIG).version)
    assert (images.licence, images.calibration_digest) == (scene.licence, scene.calibration_digest)


def test_a_scene_never_ingested_is_missing(tiny_home):
    with pytest.raises(MissingTargetError, match=r"scene/tiny\.scene-0001"):
        resize_scene_images(tiny_home, KEY, CONFIG)
    assert catalog.versions(tiny_home.objects).num_rows == 0


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4)])
def test_sizes_below_one_pixel_are_refused(size):
    with pytest.raises(ValueError, match="at least 1"):
        InputImagesConfig(height=size[0], width=size[1])
