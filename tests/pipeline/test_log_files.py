"""Logs keep a bounded size."""

from pathlib import Path

import pytest

from pipeline import log_files
from pipeline.log_files import open_log


def test_a_full_log_is_set_aside_and_the_one_before_it_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 10)
    path = tmp_path / "logs" / "worker-0.log"
    for text in (b"first", b" goes on", b"second, full", b"third"):
        with open_log(path) as log:
            log.write(text)
    assert path.read_bytes() == b"third"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file != path} == {
        "worker-0.log.old": b"second, full"
    }


def test_who_has_a_log_open_loses_nothing_when_it_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 10)
    path = tmp_path / "runs.log"
    with open_log(path) as long_lived:
        long_lived.write(b"much more than fits")
        long_lived.flush()
        open_log(path).close()
        long_lived.write(b", to its end")
    assert path.with_name("runs.log.old").read_bytes() == b"much more than fits, to its end"
