import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from storage.errors import ErrorKind, SourceDataError, SourceMovedError
from storage.ingest.source import load_source, register_source, registered_datasets, reroot_sources
from storage.ingest.source_config import SourceConfig
from storage.stores.versioned import Home


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (lambda source: source.pop("licence"), ".licence", "is missing"),
        (lambda source: source.update(colour="red"), ".colour", "is unknown"),
        (lambda source: source.update(version=1), ".version", "is 1, want a valid string"),
        (lambda source: source.update(format="kitti"), ".format", "is 'kitti', want"),
        (lambda source: source.update(dataset="other"), "", "describes 'other', want 'tiny'"),
    ],
)
def test_a_registered_source_is_read_strictly(home, tmp_path, change, field, message):
    source = SourceConfig(dataset="tiny", root=tmp_path, version="v1", licence="CC0-1.0")
    register_source(home, source)
    path = home.root / "sources" / "tiny.json"
    assert load_source(home, "tiny") == source
    written = json.loads(path.read_text())
    change(written)
    path.write_text(json.dumps(written))
    with pytest.raises(SourceDataError) as caught:
        load_source(home, "tiny")
    assert (caught.value.kind, caught.value.key) == (ErrorKind.TABLE_INVALID, f"{path}{field}")
    assert message in caught.value.message


def source_at(root: Path, dataset: str = "tiny") -> SourceConfig:
    root.mkdir(parents=True)
    return SourceConfig(dataset=dataset, root=root, version="v1", licence="CC0-1.0")


def test_a_source_inside_a_home_moves_with_it(home):
    source = source_at(home.root / "recordings" / "tiny")
    register_source(home, dataclasses.replace(source, link_roots=(home.root / "disks",)))
    shutil.copytree(home.root, home.root.parent / "copied")
    home.root.rename(home.root.parent / "moved")
    for place in ("copied", "moved"):
        found = load_source(Home(home.root.parent / place), "tiny")
        assert found.root == home.root.parent / place / "recordings" / "tiny"
        assert found.link_roots == (home.root.parent / place / "disks",)


def test_a_copied_home_never_reads_the_old_place(home, tmp_path):
    source = source_at(home.root / "recordings" / "tiny")
    register_source(home, source)
    path = home.root / "sources" / "tiny.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "root": str(source.root)}))  # as of earlier releases
    assert load_source(home, "tiny") == source
    shutil.copytree(home.root, tmp_path / "copy")
    copy = Home(tmp_path / "copy")
    with pytest.raises(SourceMovedError, match=f"reroot {home.root} {copy.root}'"):
        load_source(copy, "tiny")
    assert reroot_sources(copy, home.root, copy.root).keys() == {"tiny"}
    assert load_source(copy, "tiny").root == copy.root / "recordings" / "tiny"
    assert load_source(home, "tiny").root == source.root


def test_sources_are_given_another_root_all_or_none(home, tmp_path):
    for name in ("one", "two"):
        register_source(home, source_at(tmp_path / "old" / name, name))
    register_source(home, source_at(tmp_path / "elsewhere", "three"))
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(SourceMovedError, match="home reroot OLD NEW") as caught:
        load_source(home, "one")
    assert caught.value.key == str(tmp_path / "old" / "one")
    (tmp_path / "new" / "two").rename(tmp_path / "two")
    with pytest.raises(SourceDataError, match="want one of source 'two'"):
        reroot_sources(home, tmp_path / "old", tmp_path / "new")
    with pytest.raises(SourceMovedError):
        load_source(home, "one")
    (tmp_path / "two").rename(tmp_path / "new" / "two")
    assert set(reroot_sources(home, tmp_path / "old", tmp_path / "new")) == {"one", "two"}
    assert [load_source(home, name).root.name for name in registered_datasets(home)] == ["one", "elsewhere", "two"]
    assert reroot_sources(home, tmp_path / "old", tmp_path / "new") == {}
