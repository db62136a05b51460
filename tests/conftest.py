"""Fixtures that every test may use."""

import logging
import os
import resource
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

import tests.typechecker

# Before any project code is imported; this file imports some only where it is used.
install_import_hook(("encoders", "storage", "teachers", "student"), f"{tests.typechecker.__name__}.first_calls")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write the golden files again")
    parser.addoption("--pictures", metavar="DIR", help="keep the pictures of the browser tests in this folder")


def pytest_configure() -> None:
    # A shell may have started this deaf to these, as what runs in its background: programs would inherit it and wait
    # out every grace period. A handler does the same, here alone.
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: of several processes, none is left alone with one in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def no_more_files() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which this process can open no file, as if it had too many open."""

    @contextmanager
    def context() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unused = os.dup(0)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    return context


@pytest.fixture(scope="session")
def repository_root() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def external_data() -> Path:
    """Real recordings beside the repository, which an outside user does not have."""
    folder = Path(os.environ.get("DISTILLNERF_EXTERNAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}")
    return folder


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on this machine's loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An empty bucket, which the AWS_* environment variables lead to; this machine's folders are below ``tmp_path``."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DISTILLNERF_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    found = boto3.resource("s3", endpoint_url=s3_endpoint, region_name="us-east-1").Bucket(f"stores-{uuid.uuid4().hex}")
    found.create()
    return found


@pytest.fixture(params=["folder", "bucket"])
def any_home(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A home in a folder, or in a bucket."""
    from storage.stores.versioned import Home

    if request.param == "folder":
        return Home(tmp_path / "home")
    return Home(f"s3://{request.getfixturevalue('bucket').name}/runs/one")
