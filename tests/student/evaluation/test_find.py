"""Finding over all scenes: in a world that is known exactly, the answers are known too."""

import base64
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.finding import ask, search
from storage.errors import MissingTargetError, ProvenanceMismatchError
from storage.stores.arrays import read_target, write_target
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from student.applications.contact_sheet import outlined
from student.applications.find import ExampleQuestion, Spot, TextQuestion, as_features, feature_at, find
from student.applications.region_index import (
    RegionIndex,
    RegionIndexConfig,
    build_region_index,
    divide,
    is_current,
    region_means,
)
from student.evaluation.caveats import WORDS_OF_RENDERS
from student.inference import vocabulary
from student.inference.class_list import load_class_list
from student.inference.open_vocabulary import StoredFeatureBasis, class_probability
from student.inference.prompts import query_prompts
from student.inference.vocabulary import Vocabulary, clip_space_of_features
from tests.student.evaluation.conftest import CAR, CHANNELS, GRID, HEIGHT, NUM_CAMERAS, NUM_FRAMES, WIDTH

NUM_IMAGES = 2 * NUM_FRAMES * NUM_CAMERAS


@pytest.fixture(scope="module")
def indexed(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("find") / "home"
    shutil.copytree(world.home.root, root)
    home = Home(root)
    return home, RegionIndex(home, build_region_index(home, "clip").version)


@pytest.fixture
def own_home(world, tmp_path):
    shutil.copytree(world.home.root, tmp_path / "home")
    return Home(tmp_path / "home")


def request(text="", like=(), **settings):
    usual = {"negatives": (), "template": "a photo of a {}", "number": 24, "per_scene": 24, "scenes": ()}
    return ask(text=text, like=like, **{**usual, **settings})


def test_own_classes_compete_with_the_text_and_speak_for_it(tmp_path):
    path = tmp_path / "apron.yaml"
    path.write_text("{name: apron, classes: {tow bar: {synonyms: [towbar]}, support: {prompts: [belt loader, tug]}}}")
    classes = load_class_list(str(path))
    asked = request("support", classes=classes).prompts
    assert asked.concepts[0] == (("belt loader",), ("tug",))
    assert "tow bar" in asked.names
    assert request("a red car", classes=classes).prompts.names[0] == "red car"
    with pytest.raises(ValueError, match="negatives"):
        request("support", classes=classes, negatives=("car",))


def truth(home, spot):
    """Return where each class is in an image, on the grid of the features."""
    group = home.open_arrays(home.require("scene_truth", spot.scene))
    camera = group.attrs["camera_names"].index(spot.camera)
    return read_target(group, "scene_truth", "semantics", (spot.frame, camera))


def test_a_text_finds_every_image_with_it_before_any_other(indexed, tmp_path):
    home, index = indexed
    answer = search(home, index, request("car"), tmp_path / "answer")
    shows = [int((truth(home, hit.spot) == CAR).sum()) >= 2 for hit in answer.hits]
    assert len(shows) == NUM_IMAGES
    assert 0 < sum(shows) < NUM_IMAGES
    assert shows == sorted(shows, reverse=True)
    scores = [hit.score for hit in answer.hits]
    assert scores == sorted(scores, reverse=True)
    for hit in answer.hits[: sum(shows)]:
        is_car = truth(home, hit.spot) == CAR
        assert (hit.region & is_car).sum() / (hit.region | is_car).sum() > 0.8
        assert is_car[int(hit.spot.v * GRID[0] / HEIGHT), int(hit.spot.u * GRID[1] / WIDTH)]
    assert answer.notes == () or scores[0] < 0.5


def test_an_example_finds_its_like_in_other_images(indexed, tmp_path):
    home, index = indexed
    first = search(home, index, request("car", number=1), tmp_path / "text").hits[0]
    answer = search(home, index, request(like=(str(first.spot),)), tmp_path / "like")
    assert len(answer.hits) == NUM_IMAGES - 1
    assert (first.spot.scene, first.spot.frame, first.spot.camera) not in {
        (hit.spot.scene, hit.spot.frame, hit.spot.camera) for hit in answer.hits
    }
    shows = [int((truth(home, hit.spot) == CAR).sum()) >= 2 for hit in answer.hits]
    assert sum(shows) >= 2
    assert shows == sorted(shows, reverse=True)
    assert answer.hits[0].score > 0.95


def test_answers_of_the_demo_clip_in_a_recording_come_with_a_warning(indexed, tmp_path, monkeypatch):
    home, index = indexed
    latest = Home.latest
    monkeypatch.setattr(
        Home, "latest", lambda self, *of: None if of == ("scene_truth", "yard.b") else latest(self, *of)
    )
    like = search(home, index, request("car", number=1), tmp_path / "text")
    for asked in (request("car"), request(like=(str(like.hits[0].spot),))):
        answer = search(home, index, asked, tmp_path / "answer")
        assert answer.notes[0] == WORDS_OF_RENDERS
        assert "learned its words on rendered worlds" in answer.page.read_text()
    elsewhere = search(home, index, request("car", scenes=("yard.a",)), tmp_path / "answer")
    assert WORDS_OF_RENDERS not in elsewhere.notes


def test_every_region_is_compared_and_limits_hold(indexed):
    home, index = indexed
    basis, rng = index.basis, np.random.default_rng(0)
    question = ExampleQuestion.of(basis, rng.uniform(size=(2, CHANNELS)).astype(np.float32))
    stored = index.features(0, index.num_rows)
    best: dict[tuple, float] = {}  # by image, one region after the other
    for row, feature in enumerate(stored):
        scene = next(s for s in index.scenes if s.first_row <= row < s.first_row + s.num_rows)
        frame, camera, _ = index.places(row, row + 1)[0]
        at = basis.minimum + feature / 255 * (basis.maximum - basis.minimum)
        score = float(at @ question.direction / np.linalg.norm(at))
        image = (scene.key, int(frame), scene.camera_names[camera])
        best[image] = max(score, best.get(image, -2.0))
    wanted = sorted(best.values(), reverse=True)
    hits = find(home, index, question, number=100, per_scene=100)
    np.testing.assert_allclose([hit.score for hit in hits], wanted, atol=1e-5)
    for hit in hits:
        assert hit.score == pytest.approx(best[hit.spot.scene, hit.spot.frame, hit.spot.camera], abs=1e-5)
    few = find(home, index, question, number=3, per_scene=2)
    assert len(few) == 3
    assert max(sum(hit.spot.scene == key for hit in few) for key in ("yard.a", "yard.b")) == 2
    only = find(home, index, question, number=100, per_scene=100, scenes=("yard.b",))
    assert {hit.spot.scene for hit in only} == {"yard.b"}
    assert len(only) == NUM_IMAGES / 2
    with pytest.raises(MissingTargetError, match=r"yard\.z"):
        find(home, index, question, number=1, per_scene=1, scenes=("yard.z",))


def test_a_text_scores_as_its_probability_orders(indexed):
    home, index = indexed
    space = clip_space_of_features(home, home.require("clip_features", "yard.a"))
    vocabulary = Vocabulary.of(space, query_prompts("car"))
    question = TextQuestion(vocabulary=vocabulary, temperature=0.02)
    features = as_features(index.features(0, index.num_rows))
    probability = class_probability(vocabulary.cosine(features), 0.02)[:, 0]
    np.testing.assert_allclose([question.shown(float(s)) for s in question.score(features)], probability, rtol=1e-3)


def republish(home, key, change, basis_digest=None, weights_folder=None):
    """Publish other features of a scene, as a new extraction would."""
    old = home.require("clip_features", key)
    group, attributes = home.open_arrays(old), dict(home.open_arrays(old).attrs)
    features = change(read_target(group, "clip_features", "features"))
    provenance = home.provenance(old)
    attributes = {name: attributes[name] for name in ("weights_folder", "weights_source", "feature_basis_digest")}
    attributes["feature_basis_digest"] = basis_digest or attributes["feature_basis_digest"]
    attributes["weights_folder"] = weights_folder or attributes["weights_folder"]
    provenance = Provenance(
        kind="clip_features",
        partition=key,
        inputs=provenance.inputs,
        seed=7,
        weights_digests=provenance.weights_digests,
    )

    def write(group):
        write_target(group, "clip_features", "features", features)
        group.attrs.update(attributes)
        return {}

    return materialize_arrays(home, provenance, write).version


def test_shipped_weights_are_found_where_the_package_is_now(own_home, world, tmp_path, monkeypatch):
    features = republish(own_home, "yard.a", lambda values: values, weights_folder=str(tmp_path / "gone"))
    monkeypatch.setattr(vocabulary, "_SHIPPED_CLIP", world.clip.folder)
    assert clip_space_of_features(own_home, features).encoder.source == str(world.clip.folder)


def arrays(index):
    return index.features(0, index.num_rows), index.places(0, index.num_rows)


def test_only_what_changed_is_indexed_again_and_the_result_is_that_of_a_new_index(own_home, tmp_path):
    first = build_region_index(own_home, "clip")
    index = RegionIndex(own_home, first.version)
    assert first.metrics["reused_scenes"] == 0
    assert is_current(own_home, index)
    assert build_region_index(own_home, "clip").reused
    republish(own_home, "yard.a", lambda features: features[:, ::-1])
    assert not is_current(own_home, index)
    told = []
    second = build_region_index(own_home, "clip", on_progress=lambda *step: told.append(step))
    assert second.metrics["reused_scenes"] == 1
    assert [fraction for _, fraction, _ in told] == [0.5, 1.0]
    updated = RegionIndex(own_home, second.version)
    assert is_current(own_home, updated)
    shutil.copytree(own_home.root, tmp_path / "other", ignore=shutil.ignore_patterns("region_index"))
    other = Home(tmp_path / "other")
    anew = build_region_index(other, "clip")
    assert (anew.metrics["reused_scenes"], anew.version.digest) == (0, second.version.digest)
    for ours, theirs in zip(arrays(updated), arrays(RegionIndex(other, anew.version)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert build_region_index(own_home, "clip", RegionIndexConfig(coarseness=50.0)).metrics["reused_scenes"] == 0


def test_features_of_another_basis_are_left_out_and_named(own_home, world, tmp_path):
    other = materialize_arrays(
        own_home,
        Provenance(kind="feature_basis", partition="clip", seed=3),
        lambda group: (
            [write_target(group, "feature_basis", n, v[..., ::-1].copy()) for n, v in world.clip.basis.items()] and {}
        ),
    ).version
    republish(own_home, "yard.a", lambda features: features, basis_digest=other.digest)
    build_region_index(own_home, "clip")
    index = RegionIndex.latest(own_home, "clip")
    assert index is not None
    assert [scene.key for scene in index.scenes] == ["yard.a"]  # that of the home's current basis
    assert index.left_out == ("yard.b",)
    assert is_current(own_home, index)
    answer = search(own_home, index, request("car"), tmp_path / "answer")
    assert any("1 scene left out" in note and "yard.b" in note for note in answer.notes)
    assert "yard.b" in answer.page.read_text()
    with pytest.raises(ProvenanceMismatchError, match="another basis"):
        feature_at(own_home, index, Spot(scene="yard.b", frame=0, camera="CAM_0", u=1.0, v=1.0))
    republish(own_home, "yard.b", lambda features: features, basis_digest=other.digest)
    assert not is_current(own_home, index)


def test_a_home_without_features_says_so(own_home):
    with pytest.raises(MissingTargetError, match="feature_basis/dinov2"):
        build_region_index(own_home, "dinov2")
    assert RegionIndex.latest(own_home, "dinov2") is None


def test_the_answer_is_a_page_a_table_and_json(indexed, tmp_path):
    home, index = indexed
    text = "car & 'van'"
    answer = search(home, index, request(text, number=3), tmp_path / "answer")
    page = answer.page.read_text()
    assert "car &amp; &#39;van&#39;" in page
    with pytest.raises(ValueError, match="markup"):
        request("<script>alert(1)</script>")
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")
    assert page.count("data:image/jpeg;base64,") == 3
    record = json.loads((tmp_path / "answer" / "hits.json").read_text())
    assert record["text"] == text
    with (tmp_path / "answer" / "hits.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, entry, hit in zip(rows, record["hits"], answer.hits, strict=True):
        assert row["id"] == entry["id"] == str(hit.spot)
        assert float(row["score"]) == pytest.approx(hit.score, abs=1e-5)
        assert float(row["left"]) <= hit.spot.u <= float(row["right"])
        assert float(row["top"]) <= hit.spot.v <= float(row["bottom"])
        assert int(row["timestamp_us"]) == 500_000 * hit.spot.frame


def test_an_outline_goes_round_the_region_and_stays_in_the_image():
    region = np.zeros((4, 6), bool)
    region[1:3, 0:2] = True
    picture = outlined(np.zeros((80, 120, 3), np.uint8), region)
    is_line = picture[..., 0] > 200
    assert is_line[20, 5:35].all()
    assert is_line[60, 5:35].all()
    assert is_line[25:55, 40].all()
    assert is_line[25:55, 1].all()
    assert not is_line[:15].any()
    assert not is_line[:, 46:].any()
    assert not is_line[28:52, 8:32].any()


@given(
    st.from_regex(r"[a-z0-9_-]{1,8}\.[a-z0-9_-]{1,8}", fullmatch=True),
    st.integers(0, 999),
    st.integers(0, 4000),
    st.integers(0, 3000),
)
def test_a_spot_is_read_as_it_is_written(scene, frame, u, v):
    spot = Spot(scene=scene, frame=frame, camera="CAM_FRONT", u=float(u), v=float(v))
    assert Spot.parse(str(spot)) == spot


@pytest.mark.parametrize(
    "text", ["", "a.b", "a.b:1:CAM", "a.b:x:CAM:1,2", "a.b:1:CAM:1", "a.b:1:CAM:1,2,3", "a:b:1:CAM:1,2"]
)
def test_what_is_no_spot_is_refused(text):
    with pytest.raises(ValueError, match="SCENE:FRAME:CAMERA:U,V"):
        Spot.parse(text)


def test_pixels_that_are_not_there_are_refused(indexed):
    home, index = indexed
    good = {"scene": "yard.a", "frame": 0, "camera": "CAM_0", "u": 5.0, "v": 5.0}
    assert feature_at(home, index, Spot(**good)).shape == (CHANNELS,)
    for wrong, said in (
        ({"frame": 3}, "frames 0 to 2"),
        ({"camera": "CAM_9"}, "CAM_0, CAM_1"),
        ({"u": 112.0}, "112 pixels"),
        ({"v": -1.0}, "64 high"),
    ):
        with pytest.raises(ValueError, match=said):
            feature_at(home, index, Spot(**{**good, **wrong}))
    with pytest.raises(MissingTargetError, match=r"yard\.z"):
        feature_at(home, index, Spot(**{**good, "scene": "yard.z"}))
    with pytest.raises(ValueError, match="no common direction"):
        ExampleQuestion.of(index.basis, np.full((1, CHANNELS), np.nan, np.float32))


def test_regions_are_what_is_alike_and_undefined_cells_belong_to_none():
    basis = StoredFeatureBasis(
        mean=np.zeros(3, np.float32), components=np.eye(3, dtype=np.float32),
        minimum=np.zeros(3, np.float32), maximum=np.ones(3, np.float32),
    )  # fmt: skip
    features = np.zeros((40, 60, 3), np.float32)
    features[:, 30:] = [1.0, 0.2, 0.0]
    features[10:20, 6:16] = [0.0, 0.0, 1.0]
    features[:4] = np.nan
    config = RegionIndexConfig(coarseness=1.0, max_rows=20, max_columns=30)
    labels, cells = divide(features, basis, config)
    assert labels.shape == (20, 30)
    assert (labels[:2] == -1).all()
    assert sorted(np.unique(labels)) == [-1, 0, 1, 2]
    assert len(np.unique(labels[5:10, 3:8])) == 1
    assert len(np.unique(labels[2:, 15:])) == 1
    means = region_means(labels, cells)
    assert means.shape == (3, 3)
    assert means[labels[7, 5]].tolist() == [0, 0, 255]
    assert means[labels[7, 20]].tolist() == [255, 51, 0]
    whole, _ = divide(features[4:], basis, RegionIndexConfig(coarseness=1.0))
    assert whole.min() == 0
    with pytest.raises(ValueError, match="coarseness"):
        RegionIndexConfig(coarseness=0.0)


def test_a_thumbnail_is_the_recorded_image(indexed, tmp_path):
    home, index = indexed
    spot = Spot(scene="yard.a", frame=0, camera="CAM_0", u=30.0, v=40.0)
    answer = search(home, index, request(like=(str(spot),), number=1), tmp_path / "answer")
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", answer.page.read_text())
    example, _ = (np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in pictures)
    scale = example.shape[1] / WIDTH
    y, x = round(40 * scale), round(30 * scale)
    ring = example[y - 12 : y + 13, x - 12 : x + 13].astype(int)
    assert ((ring[..., 0] > 180) & (ring[..., 2] < 120)).sum() > 40  # the yellow ring
