"""What a scene is made from is read as it was when it was hashed, or not at all; and never much of it at once."""

import threading

import numpy as np
import pytest

from storage.digests import bytes_digest
from storage.errors import ErrorKind, OutOfCapacityError, SourceDataError
from storage.ingest import read_ahead as module
from storage.ingest.read_ahead import read_ahead
from storage.ingest.source_files import SourceFiles
from storage.ingest.waymo.tfrecord import check_framing, read_record_at, read_records


@pytest.fixture
def root(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_digests_are_those_of_the_content_in_the_order_asked_for(root):
    digests = SourceFiles(root).digests(["c", "a", "c"])
    assert list(digests.items()) == [("c", bytes_digest(b"c")), ("a", bytes_digest(b"a"))]


@pytest.mark.parametrize("first", ["read", "hashed"])
def test_a_file_that_changed_is_not_read_again(root, first):
    files = SourceFiles(root)
    before = files.digests(["a"]) if first == "hashed" else {"a": bytes_digest(files.read("a"))}
    (root / "a").write_bytes(b"something else")
    assert files.digests(["a"]) == before
    with pytest.raises(SourceDataError) as caught:
        files.read("a")
    assert (caught.value.kind, caught.value.key) == (ErrorKind.DIGEST_MISMATCH, "a")
    assert before["a"] in caught.value.message


@pytest.mark.parametrize("file", ["../a", "/etc/passwd", "link"])
def test_a_file_outside_of_the_root_is_not_read(root, tmp_path_factory, file):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret"
    elsewhere.write_bytes(b"secret")
    (root / "link").symlink_to(elsewhere)
    for call in (SourceFiles(root).read, lambda file: SourceFiles(root).digests([file])):
        with pytest.raises(SourceDataError) as caught:
            call(file)
        assert caught.value.kind == ErrorKind.FILE_UNSAFE


def test_frames_come_in_order_and_few_are_under_way():
    taken, started, most = 0, 0, 0
    lock = threading.Lock()

    def sweep(frame):
        nonlocal started, most
        with lock:
            started += 1
            most = max(most, started - taken)
        return np.full((1, 4), frame, np.float32), None

    def images(frame):
        return [lambda: b"left %d" % frame, lambda: b"right %d" % frame]

    for frame in read_ahead(40, images, sweep):
        assert frame.jpegs == (b"left %d" % taken, b"right %d" % taken)
        assert frame.points[0, 0] == taken
        with lock:
            taken += 1
    assert taken == 40
    assert 1 < most <= module._FRAMES_AHEAD + 2  # one that is being handed over, one that was just asked for


def test_after_a_fault_the_rest_is_not_read():
    read = []

    def image(frame):
        read.append(frame)
        if frame == 0:
            raise SourceDataError(ErrorKind.FILE_CORRUPT, "first", "is broken")
        threading.Event().wait(0.05)
        return b""

    with pytest.raises(SourceDataError, match="first"):
        list(read_ahead(1000, lambda frame: [lambda: image(frame)], lambda _: (np.zeros((0, 4), np.float32), None)))
    assert len(read) < 20


@pytest.mark.parametrize(
    "read",
    [
        lambda path: SourceFiles(path.parent).read(path.name),
        lambda path: list(read_records(path, path.name)),
        lambda path: check_framing(path, path.name),
        lambda path: read_record_at(path, 0, path.name),
    ],
    ids=["file", "records", "framing", "record"],
)
def test_a_file_is_not_to_blame_if_the_machine_cannot_open_any(root, no_more_files, read):
    """It would be quarantined as corrupt, though nothing is wrong with it."""
    with no_more_files(), pytest.raises(OutOfCapacityError) as caught:
        read(root / "a")
    assert caught.value.key == "a"
    assert "Too many open files" in caught.value.message
