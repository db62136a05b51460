"""A whole home in a bucket: two machines publish into it, a server fails under it, and its content is damaged."""

import http.client
import json
import logging
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from assets.failures import failure_of
from storage.errors import HomeUnavailableError, IntegrityError, MissingTargetError, StoreUnreachableError
from storage.ingest.source import load_source, register_source
from storage.ingest.source_config import SourceConfig
from storage.stores import catalog
from storage.stores.bucket import BucketObjects, tries_within
from storage.stores.places import CACHE_VARIABLE
from storage.stores.provenance import Provenance
from storage.stores.verification import verify_home
from storage.stores.versioned import Home, Materialized, give_up, materialize_arrays, materialize_files

PARTITION = "tiny.a"
SECRET = "nothing-that-anybody-may-read"


def arrays(home: Home, seed: int, config: str = "1", beside: Callable[[], object] = lambda: None) -> Materialized:
    """Publish noise: what another machine makes from the same provenance differs."""

    def write(group) -> dict:
        group.create_array("numbers", data=np.random.default_rng(seed).normal(size=(40, 300)), chunks=(10, 300))
        beside()
        return {"seed": seed}

    return materialize_arrays(home, Provenance(kind="targets", partition=PARTITION, config_digest=config), write)


def files(home: Home, seed: int, config: str = "1", beside: Callable[[], object] = lambda: None) -> Materialized:
    def write(folder: Path) -> dict:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights.bin").write_bytes(np.random.default_rng(seed).bytes(3000))
        (folder / "same.txt").write_text("the same on both")
        beside()
        return {"seed": seed}

    return materialize_files(home, Provenance(kind="weights", partition=PARTITION, config_digest=config), write)


@pytest.fixture
def machine(bucket, tmp_path, monkeypatch) -> Callable[[str], Home]:
    """A function that opens the home as a machine of this name does."""

    def opened(name: str) -> Home:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
        return Home(f"s3://{bucket.name}/team/home")

    return opened


def findings(home: Home) -> set[str]:
    return {found.finding for found in verify_home(home)}


@pytest.mark.parametrize("publish", [arrays, files])
def test_of_two_machines_one_publishes_a_digest_and_the_other_takes_it(machine, publish):
    one, two = machine("one"), machine("two")
    first = []
    second = publish(one, 1, beside=lambda: first.append(publish(two, 2)))
    assert first[0].reused is False
    assert (second.reused, second.version, second.metrics) == (True, first[0].version, {"seed": 2})
    third = machine("three")
    assert [home.versions() for home in (one, two, third)] == [[second.version]] * 3
    assert [home.latest(second.version.kind, PARTITION) for home in (one, two, third)] == [second.version] * 3
    assert catalog.versions(third.objects)["metrics"].to_pylist() == ['{"seed":2}']
    assert findings(third) == {"whole"}
    assert publish(third, 3).reused


@pytest.mark.parametrize("publish", [arrays, files])
def test_two_machines_publish_two_digests_at_once(machine, publish):
    one, two = machine("one"), machine("two")
    made = [publish(one, 1, "1", beside=lambda: publish(two, 2, "2"))]
    made.append(publish(one, 3, "2"))
    assert [m.reused for m in made] == [False, True]
    assert {v.digest for v in two.versions()} == {m.version.digest for m in made}
    assert findings(two) == {"whole"}
    assert catalog.versions(two.objects).num_rows == 2
    assert [home.metrics(m.version)["seed"] for home in (one, two) for m in made] == [1, 2, 1, 2]


def _publish_all(url: str, cache: str, seed: int, start: Any, made: Any) -> None:
    import os

    os.environ[CACHE_VARIABLE] = cache
    home = Home(url)
    start.wait()
    made.put([str(publish(home, seed, config).version) for config in "12" for publish in (arrays, files)])


@pytest.mark.slow
@pytest.mark.nightly
def test_two_processes_with_separate_disks_publish_each_digest_once(machine, tmp_path):
    home = machine("judge")
    context = multiprocessing.get_context("spawn")
    start, made = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_publish_all, args=(home.address, str(tmp_path / f"disk-{i}"), i, start, made))
        for i in range(2)
    ]
    for process in processes:
        process.start()
    assert made.get(timeout=240) == made.get(timeout=240)
    for process in processes:
        process.join()
    assert len(home.versions()) == 4
    assert catalog.versions(home.objects).num_rows == 4
    assert findings(home) == {"whole"}


def test_files_come_to_a_machine_once_and_damaged_copies_again(machine, caplog):
    version = files(machine("one"), 1).version
    two = machine("two")
    folder = two.open_files(version)
    assert folder.is_relative_to(two.root)
    weights = folder / "inner" / "weights.bin"
    assert weights.read_bytes() == np.random.default_rng(1).bytes(3000)
    weights.write_bytes(b"cut")
    assert two.open_files(version, verify=True) == folder
    assert weights.read_bytes() == np.random.default_rng(1).bytes(3000)
    assert "the copy on this machine is damaged, and is fetched again" in caplog.text


@pytest.mark.parametrize("damage", ["changed", "cut", "lost"])
def test_damage_in_the_bucket_is_found_named_and_built_again(machine, bucket, damage):
    version = files(machine("one"), 1).version
    (key,) = [o.key for o in bucket.objects.all() if o.size == 3000]
    if damage == "lost":
        bucket.Object(key).delete()
    else:
        bucket.put_object(Key=key, Body=b"x" * (3000 if damage == "changed" else 10))
    two = machine("two")
    with pytest.raises(IntegrityError, match=r"weights\.bin"):
        two.open_files(version)
    assert not [path for path in two.root.rglob("*") if path.name.startswith(".partial")]
    assert "damaged" in findings(two)
    with two.lock(version.kind, PARTITION):
        give_up(two, version)
    assert two.latest(version.kind, PARTITION) is None
    again = files(two, 1)
    assert not again.reused
    assert findings(machine("three")) == {"whole"}


def test_settings_and_sources_are_the_bucket_s(machine, tmp_path):
    from pipeline.run_config import HomeSelection

    one = machine("one")
    selection = HomeSelection(preset="tiny", overrides=("student.fit.max_steps=7",))
    selection.save(one.root)
    register_source(one, SourceConfig(dataset="tiny", root=tmp_path, version="v1"))
    two = machine("two")
    assert two.root != one.root
    assert HomeSelection.load(two.root) == selection
    assert load_source(two, "tiny").root == tmp_path
    assert not (one.root / "run.json").exists()


def test_a_machine_s_folder_opens_the_home_that_it_belongs_to(machine):
    one = machine("one")
    assert Home(one.root).address == Home(str(one.root)).address == one.address
    assert Home(one.root).root == one.root
    with pytest.raises(ValueError, match="named by a text s3://bucket/prefix"):
        Home(Path(one.address))


def test_a_bucket_that_is_not_there_is_said(machine, bucket):
    with pytest.raises(MissingTargetError, match="no such bucket"):
        Home("s3://no-such-bucket/home").exists()
    assert not machine("one").exists()


class FlakyServer:
    """A server before another one that fails as it is told.

    Attributes:
        faults: What befalls the next requests; None lets one through.
        seen: Methods of all requests.
    """

    def __init__(self, endpoint: str) -> None:
        self.faults: list[str | None] = []
        self.always: str | None = None
        self.seen: list[str] = []
        outer, upstream = self, urlsplit(endpoint).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.seen.append(self.command)
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                fault = outer.faults.pop(0) if outer.faults else outer.always
                if fault == "refused":
                    self.close_connection = True
                    return
                if fault == "503":
                    self.reply(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                    return
                connection = http.client.HTTPConnection(upstream)
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                content = response.read()
                if fault == "lost answer":
                    self.close_connection = True
                    return
                if fault == "slow":
                    threading.Event().wait(2.0)
                self.reply(response.status, dict(response.getheaders()), content)

            def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                size = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", size)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def flaky(bucket, s3_endpoint, monkeypatch) -> Iterator[FlakyServer]:
    server = FlakyServer(s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("DISTILLNERF_STORE_PATIENCE_S", "0.8")
    yield server
    server.close()


FAULTS = ["refused", "503", "slow", "lost answer"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_short_fault_is_a_retry(flaky, bucket, monkeypatch, fault):
    monkeypatch.setenv("DISTILLNERF_STORE_PATIENCE_S", "5")
    objects = BucketObjects(bucket.name, "some")
    flaky.faults = [fault]
    assert objects.create("name", b"mine")
    flaky.faults = [fault]
    assert objects.read("name") == b"mine"
    flaky.faults = [fault]
    assert objects.sizes("") == {"name": 4}
    assert not objects.create("name", b"another's")
    assert flaky.seen.count("PUT") == 3


@pytest.mark.parametrize("fault", FAULTS[:2])
def test_an_outage_is_said_to_be_one(flaky, machine, fault, caplog):
    made = [publish(machine("one"), 1).version for publish in (arrays, files)]
    two = machine("two")
    entry = two.catalog_entry(made[0])
    asked: dict[str, Callable[[], object]] = {
        "exists": two.exists,
        "find": lambda: two.find("weights", PARTITION, made[1].digest),
        "latest": lambda: two.latest("targets", PARTITION),
        "list": two.versions,
        "open arrays": lambda: two.open_arrays(made[0]),
        "open files": lambda: two.open_files(made[1]),
        "provenance": lambda: two.provenance(made[0]),
        "catalogue": lambda: catalog.versions(two.objects),
        "lineage": lambda: catalog.lineage(two.objects, made[0].as_input),
        "source": lambda: load_source(two, "tiny"),
        "arrays": lambda: arrays(two, 1),
        "files": lambda: files(two, 1, "2"),
        "record": lambda: catalog.record(two.objects, entry),
    }
    flaky.always = fault
    for question, ask in asked.items():
        with pytest.raises(StoreUnreachableError, match="nothing is known of what it holds; ask again later") as caught:
            ask()
        failure = failure_of(caught.value)
        assert failure.allow_retries, question
        told = f"{failure.description} {failure.metadata}"
        assert "delet" not in told, question
        assert "damage" not in told.replace("Nothing is known to be damaged", ""), question
        assert SECRET not in told, question
    flaky.always = None
    assert {m.version.digest for m in (arrays(two, 2), files(two, 2))} == {v.digest for v in made}
    assert findings(two) == {"whole"}
    assert SECRET not in caplog.text


def test_verify_does_not_judge_what_it_could_not_read(flaky, machine):
    files(machine("one"), 1)
    two = machine("two")
    (version,) = two.versions()
    flaky.always = "503"
    from storage.stores.verification import _verify

    assert _verify(two, version).finding == "not read"


def test_refused_credentials_are_no_damage_and_not_told(flaky, machine, bucket, monkeypatch):
    home = machine("one")
    files(home, 1)
    monkeypatch.setattr(BucketObjects, "read", lambda *_: (_ for _ in ()).throw(AssertionError))
    from obstore.exceptions import PermissionDeniedError

    objects = BucketObjects(bucket.name, "some")
    with pytest.raises(HomeUnavailableError, match="refuses the credentials") as caught, objects._asking("name"):
        raise PermissionDeniedError(f"403 {SECRET}")
    assert SECRET not in str(caught.value)


def test_credentials_are_nowhere(flaky, machine, bucket, caplog):
    caplog.set_level(logging.DEBUG)
    home = machine("one")
    for publish in (arrays, files):
        publish(home, 1)
    stored = [o.get()["Body"].read() for o in bucket.objects.all()]
    local = [path.read_bytes() for path in home.root.rglob("*") if path.is_file()]
    assert len(stored) > 10
    assert local
    assert not [content for content in (*stored, *local) if SECRET.encode() in content]
    assert SECRET not in caplog.text + repr(home) + json.dumps(home.url(home.versions()[0]))


def test_waits_double_within_the_patience():
    assert [tries_within(s) for s in (0.05, 0.15, 0.35, 0.75, 60.0)] == [1, 2, 3, 4, 17]


def test_a_lost_folder_of_this_machine_costs_nothing(machine):
    one = machine("one")
    made = [publish(one, 1) for publish in (arrays, files)]
    shutil.rmtree(one.root)
    again = machine("one")
    assert [publish(again, 2).version for publish in (arrays, files)] == [m.version for m in made]
    assert again.open_files(made[1].version).is_dir()
