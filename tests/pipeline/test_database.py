"""Dagster's history in PostgreSQL: Debian's server on loopback, started for the test."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from pipeline.definitions import build_definitions
from pipeline.instance import open_instance, prepare_instance, set_pool_limit
from pipeline.partitions import SCENES, add_scene_partitions
from pipeline.resources import DATABASE_VARIABLE, HomeResource
from storage.stores.versioned import Home

FIRST, SECOND = "tiny.scene-0001", "tiny.scene-0002"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """An empty database; its server refuses to run as root, and is then its own user's."""
    if not PROGRAMS:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    programs = PROGRAMS[-1].parent
    as_its_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp())  # below tmp_path, which is private, that user cannot go
    data, log = folder / "data", folder / "log"
    if as_its_user:
        shutil.chown(folder, "postgres")
    quiet = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    control = [*as_its_user, str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(log)]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    try:
        initdb = [*as_its_user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "someone", "--no-sync"]
        run(*initdb)
        run(*control, "-o", quiet, "start")
        try:
            yield f"postgresql+psycopg2://someone@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_one_variable_moves_the_history_to_a_database(
    database: str, make_home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, database)
    home: Home = make_home()
    with open_instance(home.root) as instance:
        add_scene_partitions(instance, [FIRST, SECOND])
        set_pool_limit(instance, "gpu", 2)
        definitions = build_definitions(home=HomeResource(root=str(home.root)))
        job = definitions.resolve_implicit_global_asset_job_def()
        scene = [dg.AssetKey("scene")]
        ran = job.execute_in_process(asset_selection=scene, partition_key=FIRST, instance=instance)
        assert ran.success
    with open_instance(home.root) as instance:  # another process, or another machine
        assert set(instance.get_dynamic_partitions(SCENES)) == {FIRST, SECOND}
        assert instance.get_materialized_partitions(dg.AssetKey("scene")) == {FIRST}
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]
        assert [(pool.name, pool.limit) for pool in instance.event_log_storage.get_pool_limits()] == [("gpu", 2)]
    assert not list(home.root.glob("dagster/**/*.db"))
    assert database not in (home.root / "dagster" / "dagster.yaml").read_text()  # it may hold a password


def test_an_untouched_file_follows_the_variable_and_an_edited_one_must_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = prepare_instance(tmp_path) / "dagster.yaml"
    plain = file.read_text()
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql+psycopg2://someone:secret@database/dagster")
    prepare_instance(tmp_path)
    assert f"env: {DATABASE_VARIABLE}" in file.read_text()
    file.write_text(plain + "# mine\n")
    with pytest.raises(ValueError, match="was edited, does not use it: add"):
        prepare_instance(tmp_path)
    file.write_text(plain + f"# mine, {DATABASE_VARIABLE}\n")
    prepare_instance(tmp_path)
    monkeypatch.delenv(DATABASE_VARIABLE)
    file.write_text(plain)
    prepare_instance(tmp_path)
    assert file.read_text() == plain


def test_a_form_that_fails_later_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql://someone:secret@database/dagster")
    with pytest.raises(ValueError, match=r"must have the form postgresql\+psycopg2://") as refused:
        prepare_instance(tmp_path)
    assert "secret" not in str(refused.value)
