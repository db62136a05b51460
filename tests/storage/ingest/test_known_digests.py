"""A raw file is hashed once, and again as soon as anything may have touched it."""

import json
import os
import time

import pytest

from storage.digests import bytes_digest, digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.ingest import known_digests as module
from storage.ingest import source_files
from storage.ingest.known_digests import FOLDER, VERIFY_RAW_VARIABLE, known_digests
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.kinds import Kind

KEY = SceneKey("tiny", "scene-0001")


@pytest.fixture
def later(monkeypatch):
    """Files that were written just now are old: the clock that tells their age is an hour ahead."""
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 3_600_000_000_000)


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(b"as recorded")
    return path


def ask(home_root, path):
    """Return the digest of a file, and whether it was read for that."""
    read = []

    def hash_now():
        read.append(path)
        return bytes_digest(path.read_bytes())

    with known_digests(home_root, Kind.SCENE, "one") as known:
        return known.digest("raw.bin", path, hash_now), bool(read)


def with_times_of(path, before):
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(path):
    os.utime(path, ns=(0, 1))


def grow(path):
    before = path.stat()
    path.write_bytes(b"longer than it was")
    with_times_of(path, before)


def rewrite_in_place(path):
    """Keep size and inode, and set the time of change back, as a copy with times does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"AS RECORDED")
    with_times_of(path, before)


def replace(path):
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"AS RECORDED")
    with_times_of(other, before)
    other.replace(path)


def lead_elsewhere(path):
    other = path.with_name("other")
    other.write_bytes(b"AS RECORDED")
    with_times_of(other, path.stat())
    path.unlink()
    path.symlink_to(other)


def test_an_untouched_file_is_read_once(tmp_path, raw, later):
    wanted = bytes_digest(b"as recorded")
    assert ask(tmp_path, raw) == (wanted, True)
    assert ask(tmp_path, raw) == (wanted, False)
    assert ask(tmp_path, raw) == (wanted, False)


@pytest.mark.parametrize("change", [touch, grow, rewrite_in_place, replace, lead_elsewhere], ids=lambda f: f.__name__)
def test_a_file_that_was_touched_is_read_again(tmp_path, raw, later, change):
    ask(tmp_path, raw)
    change(raw)
    assert ask(tmp_path, raw) == (bytes_digest(raw.read_bytes()), True)
    assert ask(tmp_path, raw) == (bytes_digest(raw.read_bytes()), False)


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode", "device"])
def test_a_difference_in_one_thing_is_enough(tmp_path, raw, later, field):
    ask(tmp_path, raw)
    record = tmp_path / FOLDER / Kind.SCENE / "one.json"
    files = json.loads(record.read_text())["files"]
    files["raw.bin"][module._FIELDS.index(field)] += 1
    record.write_text(module._spell(files))
    assert ask(tmp_path, raw)[1]


def test_what_may_change_within_one_tick_of_the_clock_is_not_kept(tmp_path, raw):
    assert ask(tmp_path, raw)[1]
    assert ask(tmp_path, raw)[1]
    os.utime(raw, ns=(0, 0))  # an old content, whose inode changed just now
    assert ask(tmp_path, raw)[1]
    assert ask(tmp_path, raw)[1]


def test_a_file_that_changes_while_it_is_hashed_is_not_kept(tmp_path, raw, later):
    def hash_now():
        digest = bytes_digest(raw.read_bytes())
        grow(raw)
        return digest

    with known_digests(tmp_path, Kind.SCENE, "one") as known:
        known.digest("raw.bin", raw, hash_now)
    assert ask(tmp_path, raw) == (bytes_digest(raw.read_bytes()), True)


def change_a_digit(text):
    digest = json.loads(text)["files"]["raw.bin"][-1]
    return text.replace(digest, ("1" if digest[0] == "0" else "0") + digest[1:])


DAMAGE = {
    "empty": lambda text: "",
    "cut": lambda text: text[:-10],
    "digit": change_a_digit,
    "no_object": lambda text: "[]",
    "other_release": lambda text: text.replace('"schema":1', '"schema":2'),
    "no_files": lambda text: json.dumps({"schema": 1, "sha256": digest_of([1]), "files": [1]}),
    "short_row": lambda text: module._spell({"raw.bin": [1, bytes_digest(b"")]}),
    "no_text": lambda text: "\udcff",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_not_used(tmp_path, raw, later, damage, caplog):
    ask(tmp_path, raw)
    record = tmp_path / FOLDER / Kind.SCENE / "one.json"
    record.write_bytes(DAMAGE[damage](record.read_text()).encode(errors="surrogateescape"))
    assert ask(tmp_path, raw) == (bytes_digest(b"as recorded"), True)
    assert "is not used" in caplog.text
    assert ask(tmp_path, raw) == (bytes_digest(b"as recorded"), False)


def test_a_disk_that_takes_no_record_stops_nothing(tmp_path, raw, later, caplog):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    assert ask(tmp_path, raw) == (bytes_digest(b"as recorded"), True)
    assert "are not kept" in caplog.text


def test_everything_is_read_again_on_demand(tmp_path, raw, later, monkeypatch):
    ask(tmp_path, raw)
    monkeypatch.setenv(VERIFY_RAW_VARIABLE, "1")
    assert ask(tmp_path, raw)[1]
    monkeypatch.setenv(VERIFY_RAW_VARIABLE, "0")
    assert not ask(tmp_path, raw)[1]
    monkeypatch.setenv(VERIFY_RAW_VARIABLE, "yes")
    with pytest.raises(ValueError, match="want 1 to hash"):
        ask(tmp_path, raw)


@pytest.fixture
def read_files(monkeypatch):
    """Names of the raw files that are read, in order."""
    names, read = [], source_files.read_bytes
    monkeypatch.setattr(source_files, "read_bytes", lambda path, key: [names.append(key), read(path, key)][1])
    return names


def test_a_scene_that_is_there_costs_no_reading(tiny_home, read_files, later, monkeypatch):
    first = ingest_scene(tiny_home, KEY)
    num_files = len(set(read_files))
    read_files.clear()
    again = ingest_scene(tiny_home, KEY)
    assert (again.version, again.reused) == (first.version, True)
    assert num_files > 0
    assert read_files == []
    monkeypatch.setenv(VERIFY_RAW_VARIABLE, "1")
    assert ingest_scene(tiny_home, KEY).reused
    assert len(read_files) == num_files


def test_a_changed_image_makes_another_version(tiny_home, tiny, read_files, later):
    first = ingest_scene(tiny_home, KEY)
    file = next(name for name in read_files if name.endswith(".jpg"))
    content = (tiny.root / file).read_bytes()
    (tiny.root / file).write_bytes(content + b"\0")
    read_files.clear()
    second = ingest_scene(tiny_home, KEY)
    assert not second.reused
    assert second.version.digest != first.version.digest
    (tiny.root / file).write_bytes(content)
    assert ingest_scene(tiny_home, KEY).version == first.version


def test_a_record_that_the_content_contradicts_is_dropped(tiny_home, tiny, read_files, later):
    """Nothing but damage of the file system can do this; the file is named, and hashed the next time."""
    ingest_scene(tiny_home, KEY)
    record = tiny_home.root / FOLDER / Kind.SCENE / f"{KEY}.json"
    files = json.loads(record.read_text())["files"]
    file = next(name for name in files if name.endswith(".jpg"))
    files[file][-1] = bytes_digest(b"something else")
    record.write_text(module._spell(files))
    with pytest.raises(SourceDataError) as caught:
        ingest_scene(tiny_home, KEY)
    assert (caught.value.kind, caught.value.key) == (ErrorKind.DIGEST_MISMATCH, file)
    assert not record.exists()
    assert ingest_scene(tiny_home, KEY).reused
