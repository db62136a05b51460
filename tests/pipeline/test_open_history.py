"""Dagster's history stays open between two events, and is whole on the disk when nobody keeps it open."""

import sqlite3

import dagster as dg
import pytest

from pipeline import open_history as module
from pipeline.open_history import open_history


@dg.job
def nothing():
    """Do nothing."""


@pytest.fixture
def instance(tmp_path):
    with dg.DagsterInstance.from_config(str(_folder(tmp_path))) as instance:
        yield instance


def _folder(tmp_path):
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


def journals(tmp_path):
    return sorted(path.name for path in (tmp_path / "dagster").rglob("*.db-wal"))


def test_files_stay_open_between_events(tmp_path, instance):
    with open_history(tmp_path / "dagster"):
        run = instance.create_run_for_job(nothing)
        instance.report_engine_event("one", run)
        assert "index.db-wal" in journals(tmp_path) or f"{run.run_id}.db-wal" in journals(tmp_path)
        seen = journals(tmp_path)
        instance.report_engine_event("two", run)
        assert journals(tmp_path) == seen
    assert journals(tmp_path) == []
    said = [entry.message for entry in instance.all_logs(run.run_id)]
    assert said == ["one", "two"]
    instance.report_engine_event("three", run)
    assert journals(tmp_path) == []


def test_few_files_stay_open_however_many_runs_there_are(tmp_path, instance, monkeypatch):
    monkeypatch.setattr(module, "_MAX_OPEN", 2)
    runs = []
    with open_history(tmp_path / "dagster"):
        for _ in range(4):
            runs.append(instance.create_run_for_job(nothing))
            instance.report_engine_event("said", runs[-1])
            assert len(journals(tmp_path)) <= 2
    for run in runs:
        assert [entry.message for entry in instance.all_logs(run.run_id)] == ["said"]


def test_other_databases_are_left_alone(tmp_path, instance):
    from sqlalchemy import create_engine, text

    (tmp_path / "other").mkdir()
    engine = create_engine(f"sqlite:///{tmp_path}/other/one.db")
    with open_history(tmp_path / "dagster"):
        with engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))
            connection.execute(text("CREATE TABLE one (id INTEGER)"))
            connection.commit()
            assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        engine.dispose()
        assert not (tmp_path / "other" / "one.db-wal").exists()
    with sqlite3.connect(tmp_path / "other" / "one.db") as plain:
        assert plain.execute("SELECT count(*) FROM one").fetchone() == (0,)
