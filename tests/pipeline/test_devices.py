"""Each process has an accelerator of its own while there are enough, and a dead one keeps none."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.devices import CUDA_VARIABLE, own_device
from pipeline.instance import open_instance
from pipeline.resources import DEVICES_VARIABLE, devices_from_environment
from pipeline.run import usual_workers
from pipeline.service import run_process
from pipeline.workflow import accelerator_slots, prepare_home
from storage.stores.versioned import Home

HOLDER = """
import os, sys
from pathlib import Path
from pipeline.devices import own_device
with own_device(Path(sys.argv[1]), sys.argv[2].split(",")):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DEVICES_VARIABLE, CUDA_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def shown() -> list[str]:
    return os.environ[CUDA_VARIABLE].split(",")


def test_each_holder_has_its_own_device_first_and_sees_the_others(tmp_path: Path) -> None:
    devices = ("0", "1", "GPU-1b/2")
    with ExitStack() as stack:
        orders = []
        for wanted in devices:
            assert stack.enter_context(own_device(tmp_path, devices)) == wanted
            orders.append(shown())
    assert orders == [["0", "1", "GPU-1b/2"], ["1", "0", "GPU-1b/2"], ["GPU-1b/2", "0", "1"]]
    assert CUDA_VARIABLE not in os.environ


def test_with_more_processes_than_devices_the_fewest_share(tmp_path: Path) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(own_device(tmp_path, ("0", "1"))) for _ in range(5)]
    assert held == ["0", "1", "0", "1", "0"]
    with own_device(tmp_path, ("0", "1")) as device:
        assert device == "0"


@pytest.mark.parametrize("devices", [(), ("0",)], ids=["none", "one"])
def test_with_nothing_to_share_nothing_is_changed(tmp_path: Path, devices: tuple[str, ...]) -> None:
    with own_device(tmp_path, devices) as device:
        assert device is None
        assert CUDA_VARIABLE not in os.environ
    assert not list(tmp_path.iterdir())


def test_what_the_environment_said_before_is_said_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUDA_VARIABLE, "4,5")
    with own_device(tmp_path, devices_from_environment()) as device:
        assert device == "4"
    assert shown() == ["4", "5"]


def test_a_killed_process_frees_its_device(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "0,1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "0,1"
        with own_device(tmp_path, ("0", "1")) as device:
            assert device == "1"
            process.send_signal(signal.SIGKILL)
            process.wait()
            with own_device(tmp_path, ("0", "1")) as freed:
                assert freed == "0"


@pytest.mark.parametrize(
    ("named", "visible", "wanted"),
    [
        ("0,1, 2", None, ("0", "1", "2")),
        ("", "3,4", ("3", "4")),
        ("5", "3,4", ("5",)),
        (None, "", ()),
        (None, "-1", ()),
        ("-1", "3,4", ()),
    ],
    ids=["named", "visible", "named_first", "hidden", "hidden_by_number", "none_named"],
)
def test_devices_are_those_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, named: str | None, visible: str | None, wanted: tuple[str, ...]
) -> None:
    for variable, text in ((DEVICES_VARIABLE, named), (CUDA_VARIABLE, visible)):
        if text is not None:
            monkeypatch.setenv(variable, text)
    assert devices_from_environment() == wanted


@pytest.mark.parametrize("text", ["0,0", "0,,1", ","])
def test_a_list_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(DEVICES_VARIABLE, text)
    with pytest.raises(ValueError, match="want each device once"):
        devices_from_environment()


def test_pool_and_workers_are_as_many_as_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICES_VARIABLE, "-1")
    assert (usual_workers(), accelerator_slots()) == (2, 2)
    monkeypatch.setenv(DEVICES_VARIABLE, "0")
    assert (usual_workers(), accelerator_slots()) == (2, 1)
    monkeypatch.setenv(DEVICES_VARIABLE, "0,1,2,3,4,5,6,7")
    assert (usual_workers(), accelerator_slots()) == (8, 8)
    home = Home(tmp_path)
    prepare_home(home)
    with open_instance(home.root) as instance:
        limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    assert limits["gpu"] == 8


def test_the_process_of_a_launched_run_has_a_device_and_an_open_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setenv(DEVICES_VARIABLE, "6,7")
    monkeypatch.setattr(sys, "argv", ["run_process", str(tmp_path / "dagster"), "told"])
    monkeypatch.setattr(run_process, "dagster_main", lambda: seen.append((sys.argv, shown())))
    with own_device(tmp_path, ("6", "7")):
        run_process.main()
    assert seen == [(["dagster", "api", "execute_run", "told"], ["7", "6"])]
