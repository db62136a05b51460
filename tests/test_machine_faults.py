"""What a machine cannot read now is not called damaged, missing or bad data, whoever reads it."""

import errno

import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPTokenizerFast

from pipeline.live import packed_folder
from pipeline.photographs import publish_photographs
from storage.errors import HomeUnavailableError, OutOfCapacityError
from storage.ingest import arrivals
from storage.ingest.manifest import recording
from storage.ingest.manifest.tables import POSES, read_columns
from storage.ingest.nuscenes import occ3d
from storage.ingest.raw_files import check_jpeg
from storage.ingest.waymo.panoptic import decode_panoptic
from storage.keys import SceneKey
from storage.stores.versioned import Home
from teachers.config import WeightsConfig
from teachers.image.convert_weights import convert_depth_anything
from teachers.image.plain_pickle import read_pickled_arrays
from teachers.image.weights import TeacherModel, load_processor, load_tokenizer, resolve_weights

DEMO = WeightsConfig(source="demo")
CLIP = resolve_weights(DEMO, TeacherModel.CLIP)


@pytest.mark.parametrize(
    "read",
    {
        "end of a file": lambda path: arrivals._check_end(path, path.name, 1),
        "photographs": lambda path: publish_photographs(Home(path), path.parent, SceneKey("a", "b"), height=8),
        "pickled arrays": lambda path: read_pickled_arrays(path, "model"),
        "published tensors": lambda path: convert_depth_anything(path, path.with_name("new"), release="v2"),
        "folder of weights": lambda _: resolve_weights(DEMO, TeacherModel.CLIP),
        "processor": lambda _: load_processor(CLIPImageProcessorPil, CLIP),
        "tokenizer": lambda _: load_tokenizer(CLIPTokenizerFast, CLIP),
    }.items(),
    ids=lambda named: named[0],
)
def test_files_are_not_to_blame_if_the_machine_can_open_none(read, tmp_path, no_more_files):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    with no_more_files(), pytest.raises(OutOfCapacityError, match="Too many open files"):
        read[1](path)


@pytest.mark.parametrize(
    ("place", "name", "decode"),
    [
        (Image, "open", lambda: check_jpeg(b"x", "a", width=8, height=8, max_pixels=64)),
        (Image, "open", lambda: recording._decode_mask(b"x", "a", (8, 8))),
        (Image, "open", lambda: decode_panoptic(b"x", (8, 8), "a")),
        (pq, "ParquetFile", lambda: read_columns(b"x", "a", POSES)),
        (occ3d.zipfile, "ZipFile", lambda: occ3d.read_arrays(b"x", "a", ("semantics",))),
    ],
    ids=["jpeg", "mask", "panoptic labels", "table", "archive of labels"],
)
def test_content_is_not_to_blame_if_its_decoder_meets_a_fault(place, name, decode, monkeypatch):
    """Decoders import parts of themselves when they are first needed, and allocate."""
    for fault, wanted in (
        (OSError(errno.EIO, "Input/output error"), HomeUnavailableError),
        (MemoryError(), OutOfCapacityError),
    ):
        monkeypatch.setattr(place, name, _raising(fault))
        with pytest.raises(wanted, match=r"^a: "):
            decode()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: packed_folder("somebody/student"),
        lambda: resolve_weights(WeightsConfig(source="somebody/weights"), TeacherModel.CLIP),
    ],
    ids=["student", "weights"],
)
def test_a_full_disk_is_no_missing_model(ask, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", _raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OutOfCapacityError, match=r"^somebody/.*No space left"):
        ask()


def _raising(error):
    def call(*_, **__):
        raise error

    return call
