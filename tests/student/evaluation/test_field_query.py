"""Words asked of a scene's own field: points, heat maps, and a part within its object."""

import json

import numpy as np
import pytest
from PIL import Image

from storage.kinds import StoreForm
from storage.stores.versioned import StoreVersion
from student.applications.answers import RegionConfig
from student.applications.field_query import query_field
from student.inference.open_vocabulary import StoredFeatureBasis, TextEncoder
from student.inference.vocabulary import ClipSpace

SIZE = (8, 12)
WORDS = ("building", "road", "car")


class Words(TextEncoder):
    """Knows three words, each of its own direction."""

    def __init__(self) -> None:
        self.digest, self.temperature = "three words", 0.2

    def embed(self, texts):
        return np.eye(3, dtype=np.float32)[[WORDS.index(text.split()[-1]) for text in texts]]


@pytest.fixture
def field():
    """Two views of a wall, building on the left and road on the right; in each half a car shows through."""
    building, road, car = np.eye(3, dtype=np.float32)
    features = np.empty((2, *SIZE, 3), np.float32)
    features[:, :, :6], features[:, :, 6:] = building, road
    features[:, 2:4, 1:3] = 0.6 * building + 0.4 * car
    features[:, 5:7, 9:11] = car
    rows, columns = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]), indexing="ij")
    points = np.tile(np.stack([0.3 * columns, 0.3 * rows, np.full(SIZE, 5.0)], axis=-1), (2, 1, 1, 1))
    points[1, 0] = np.nan
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    space = ClipSpace(
        encoder=Words(),
        basis=StoredFeatureBasis(mean=zeros, components=np.eye(3, dtype=np.float32), minimum=zeros, maximum=ones),
        basis_version=StoreVersion(
            kind="feature_basis", partition="clip", digest="0" * 64, form=StoreForm.ARRAYS, snapshot_id="0"
        ),
    )
    return space, features.astype(np.float16), points.astype(np.float32), np.full((2, *SIZE, 3), 120, np.uint8)


def test_a_text_is_found_in_space_and_in_views(field, tmp_path):
    answer = query_field(*field, ["left"], "car", tmp_path, negatives=("building", "road"), about={"scene": "yard.b"})
    assert [path.name for path in answer.heat_maps] == ["left.png"]
    with Image.open(answer.heat_maps[0]) as picture:
        assert picture.size[0] >= 300
    assert len(answer.positions) == SIZE[0] * SIZE[1]  # two views of one point are one point
    assert answer.positions[:4, 0].min() > 2.6
    assert answer.probability[0] > 2 * answer.probability[-1]
    record = json.loads((tmp_path / "query.json").read_text())
    assert record["scene"] == "yard.b"
    assert record["best_point_m"] == answer.positions[0].round(2).tolist()


def test_a_part_is_looked_for_within_its_object_alone(field, tmp_path):
    region = RegionConfig(reach_m=1.0)  # the car on the road is 1.2 m from the building
    answer = query_field(*field, ["left"], "building", tmp_path, part="car", negatives=("road",), region=region)
    # The better car is on the road; that on the building is the one asked for.
    assert answer.positions[:4, 0].max() < 1.0
    assert answer.positions[:, 0].max() < 1.7  # nothing outside the object has a probability
    assert answer.record["within"][0]["num_cells"] == len(answer.positions) == 48
    assert answer.objects[0].centre[0] < 1.0
    _, _, body = (tmp_path / "points.ply").read_bytes().partition(b"end_header\n")
    assert len(body) == 23 * SIZE[0] * SIZE[1]


def test_views_without_a_surface_are_refused(field, tmp_path):
    space, features, points, rgb = field
    with pytest.raises(ValueError, match="no view shows a surface"):
        query_field(space, features, np.full_like(points, np.nan), rgb, ["left"], "car", tmp_path)
