"""The Dagster UI as a person uses it: a real browser, a real web server and daemon, real runs.

``pytest tests/pipeline/test_ui.py --pictures docs/images/ui`` makes the pictures of ``docs/guides/orchestration.md``.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData  # not exported
from websockets.sync.client import ClientConnection, connect

from assets.partition_runs import event_of
from pipeline.instance import open_instance
from pipeline.partitions import add_scene_partitions
from pipeline.run_config import HomeSelection
from storage.ingest.run import ingest_scene
from storage.ingest.source import register_source
from storage.ingest.source_config import SourceConfig
from storage.keys import SceneKey
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.versioned import Home, StoreVersion
from student.config import FitRuntime, OptimizerConfig
from student.evaluation.evaluate import evaluate_checkpoint
from student.training.fit import fit_student
from tests.student.evaluation.conftest import World, student_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 400.0  # of a machine that does much else; nothing here waits without looking
WINDOW = (1400, 800)
NEW, *INGESTED = (f"{day}.scene-0001" for day in ("monday", "tuesday", "wednesday"))
A_DAY_S = 24 * 3600

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def wait_for(what: str, look: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found := look():
                return found
        time.sleep(0.5)
    raise TimeoutError(what)


class Page:
    """One browser tab, driven through the Chrome DevTools Protocol."""

    def __init__(self, connection: ClientConnection, pictures: Path) -> None:
        self._connection = connection
        self._pictures = pictures
        self._calls = 0
        self.uncaught: list[str] = []
        """Errors that the page's own code did not catch."""
        self.call("Page.enable")
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE_S))
            if message.get("method") == "Runtime.exceptionThrown":
                self.uncaught.append(json.dumps(message["params"]["exceptionDetails"])[:2000])
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return None if "exceptionDetails" in answer else answer["result"].get("value")  # the page may still load

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    @property
    def text(self) -> str:
        return self.evaluate("document.body.innerText") or ""

    def wait_for_text(self, *texts: str) -> str:
        try:
            return wait_for(
                f"{texts} on the page", lambda: (seen := self.text) and all(t in seen for t in texts) and seen
            )
        except TimeoutError:
            self.photograph("missing-text")
            raise TimeoutError(f"{texts} not in: {self.text[:3000]}") from None

    def shows(self, *texts: str, within_s: float) -> bool:
        """Return whether the page shows all texts soon."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if all(text in self.text for text in texts):
                return True
            time.sleep(0.2)
        return False

    def click(self, text: str, selector: str = "button, a, [role=button], [role=menuitem]") -> None:
        """Click the first visible, enabled element of the selector whose text begins with ``text``."""
        wanted = f"""[...document.querySelectorAll({json.dumps(selector)})].find(
            e => e.offsetParent !== null && !e.disabled && (e.innerText || '').trim().startsWith({json.dumps(text)})
        )"""
        self._click_element(f"{text!r} to click", wanted)

    def click_in_front(self, selector: str) -> None:
        """Click the last element of the selector: what opened last is the last in the page, and in front."""
        self._click_element(f"{selector} to click", f"[...document.querySelectorAll({json.dumps(selector)})].pop()")

    def _click_element(self, what: str, element: str) -> None:
        find = f"""(() => {{
            const found = {element};
            if (!found) return null;
            found.scrollIntoView({{block: 'center'}});
            const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""

        def at_rest() -> list[float] | None:
            before = self.evaluate(find)
            time.sleep(0.3)
            return before if before == self.evaluate(find) else None

        try:
            x, y = wait_for(f"{what}, at rest", at_rest)
        except TimeoutError:
            self.photograph("missing-element")
            raise
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_until(self, text: str, selector: str, *expected: str) -> None:
        """Click, again and again, until the page shows what a click leads to: a page may be drawn before it listens."""

        def opened() -> bool:
            self.click(text, selector)
            return self.shows(*expected, within_s=10.0)

        wait_for(f"{expected} after a click on {text!r}", opened)

    def type(self, text: str) -> None:
        """Type into what was clicked."""
        self.call("Input.insertText", text=text)

    def press_escape(self) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape", windowsVirtualKeyCode=27)

    def photograph(self, name: str, height: int = WINDOW[1]) -> None:
        """Keep a picture of the page's upper part, once what moves has come to rest."""
        time.sleep(1.5)
        part = {"x": 0, "y": 0, "width": WINDOW[0], "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", format="webp", quality=60, clip=part)["data"]
        (self._pictures / f"{name}.webp").write_bytes(base64.b64decode(data))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientConnection]:
    port = free_port()
    profile = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [
            str(CHROMIUM),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *(f"--window-size={WINDOW[0]},{WINDOW[1] + 140}", "--lang=en-GB", "--remote-allow-origins=*"),
            *(f"--remote-debugging-port={port}", f"--user-data-dir={profile}", "about:blank"),
        ],
        env={**os.environ, "TZ": "UTC"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        tabs = wait_for(
            "the browser", lambda: [t for t in get_json(f"http://127.0.0.1:{port}/json") if t["type"] == "page"]
        )
        with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None) as connection:
            yield connection
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def page(browser: ClientConnection, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """The tab; pictures go to the folder that ``--pictures`` names, or beside the test's other temporary files."""
    pictures = Path(request.config.getoption("--pictures") or tmp_path)
    pictures.mkdir(parents=True, exist_ok=True)
    page = Page(browser, pictures)
    yield page
    assert not page.uncaught


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one procedural drive under three names, and with a student of two scenes of a closed-form world."""
    world = World(tmp_path_factory.mktemp("ui"))
    home = world.home
    add_recordings(home)
    quick = ("max_lateral_frames=0", "num_training_frames=1", "panel_frames=1", "panel_cameras=1", "panel_width=64")
    sizes = ("input_images.height=32", "input_images.width=64", *(f"evaluation.{setting}" for setting in quick))
    HomeSelection(
        preset="demo", variant="clip", overrides=sizes, train_scenes=("yard.a",), validation_scenes=("yard.b",)
    ).save(home.root)
    config = student_config()
    world.publish_student("clip", config)
    for scene in INGESTED:
        ingest_scene(home, SceneKey.parse(scene))
    shown = {"scene", *config.data.kinds, "training_set", "student_checkpoint"}
    with open_instance(home.root) as instance:
        add_scene_partitions(instance, (NEW, *INGESTED, "yard.a", "yard.b"))
        for version in home.versions():
            if version.kind in shown:
                instance.report_runless_asset_event(event_of(home, version))
    return home


def add_recordings(home: Home) -> None:
    """Generate one drive and register it under three names: three drives would take three times as long."""
    drive = ProceduralConfig(
        num_scenes=1, frames_per_scene=1, image_height=90, image_width=160, antialias=False, seed=1
    )
    root = home.root / "recordings" / "drive"
    generate_dataset(home, root, drive)
    for scene in (NEW, *INGESTED):
        dataset = SceneKey.parse(scene).dataset
        register_source(home, SourceConfig(dataset=dataset, root=root, version=drive.version, licence="CC0-1.0"))


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[str]:
    """``distillnerf ui`` on the home; yields its address."""
    port = free_port()
    log = home.root / "ui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "ui", "--home", str(home.root), "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    started = psutil.Process(process.pid)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for("the web server", lambda: get_json(f"{address}/server_info"))
        yield address
        children = started.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, [p.cmdline() for p in alive]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def listening_addresses(port: int) -> set[str]:
    return {
        c.laddr.ip for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    }


def graph_of(*assets: str) -> str:
    """The path of the graph of some assets: the UI's own selection language is the end of it."""
    return "/asset-groups~" + quote(" or ".join(f'key:"{asset}"' for asset in assets))


def choose_scenes(page: Page, *scenes: str) -> None:
    page.click_until("Select a partition", "div, button, [role=button]", *scenes)
    for count, scene in enumerate(scenes, 1):
        page.click(scene, "a, [role=menuitem]")
        page.wait_for_text("1 partition\n" if count == 1 else f"{count} partitions\n")
    page.press_escape()


def test_a_new_scene_is_materialised_from_the_graph(server: str, page: Page, home: Home) -> None:
    assert listening_addresses(int(server.rsplit(":", 1)[1])) == {"127.0.0.1"}

    page.open(f"{server}/asset-groups")
    page.wait_for_text("recordings", "scenes", "image_teachers", "scene_teacher", "student", "results")

    page.open(server + graph_of("scene", "sky_mask"))
    page.click_until("Materialize all", "button", "Are you sure?", "procedural_recordings")
    page.click_until("Confirm", "button", "Partition selection")
    choose_scenes(page, NEW)
    page.photograph("materialise")
    page.click("Launch")
    page.wait_for_text("Launched run")

    page.open(f"{server}/runs")
    page.wait_for_text(f"partition: {NEW}", "2 assets", "Success")
    version = home.require("sky_mask", NEW)
    assert all(home.latest("sky_mask", scene) is None for scene in INGESTED)

    page.open(f"{server}/assets/sky_mask?view=partitions&partition={NEW}")
    page.wait_for_text("Materialized", version.digest, "snapshot", "preview", "quality_gate")
    page.photograph("sky-mask")


@pytest.mark.nightly
def test_two_teachers_are_backfilled_with_an_override(server: str, page: Page, home: Home) -> None:
    page.open(server + graph_of("sky_mask", "depth_anything_features"))
    page.click_until("Materialize all", "button", "Partition selection")
    choose_scenes(page, *INGESTED)
    page.click_until("Config", "div, button, [role=button]", "Add config")
    page.click_until("Add config", "button", "Config Editor", "ERRORS")
    page.click_in_front(".CodeMirror")
    page.type("""ops:
  sky_mask:
    config:
      overrides: [image_teachers.sky.threshold=0.4]
  depth_anything_features:
    config:
      overrides: [image_teachers.depth_anything.grid_height=8]
""")
    page.wait_for_text("grid_height=8", "No errors")
    page.photograph("override")
    page.click("Save config", "button")
    wait_for("the editor to close", lambda: "Config Editor" not in page.text)
    page.wait_for_text("Config saved", "2 partitions")
    page.click("Launch backfill", "button")
    page.wait_for_text("Created backfill")

    page.open(f"{server}/runs?view=backfills")
    page.wait_for_text("2 partitions", "sky_mask", "depth_anything_features", "Success")
    for scene in INGESTED:
        sky, depth = (home.provenance(home.require(k, scene)).config for k in ("sky_mask", "depth_anything_features"))
        assert sky is not None
        assert depth is not None
        assert (sky["threshold"], depth["grid_height"]) == (0.4, 8)


def test_a_checkpoint_leads_to_its_training_targets(server: str, page: Page, home: Home) -> None:
    page.open(f"{server}/assets/student_checkpoint?view=partitions&partition=clip")
    page.wait_for_text(home.require("student_checkpoint", "clip").digest, "training_targets")
    page.click_until("[Show Markdown]", "a", "target", "partition", "version", "gate")
    depth = home.require("teacher_depth", "yard.a")
    page.wait_for_text("yard.a", "yard.b", depth.digest[:12], "✓")
    page.photograph("training-targets")
    page.click("teacher_depth", "a")
    page.wait_for_text(depth.digest, "yard.a")


@pytest.mark.nightly
def test_the_nightly_evaluation_ticks_and_catches_a_worse_student(server: str, page: Page, home: Home) -> None:
    was_good = make_a_student_that_became_worse(home)
    page.open(f"{server}/locations/distillnerf/schedules/nightly_evaluation")
    page.wait_for_text("Schedule has never run", "At 03:00 AM UTC")
    wait_for("the begin of a minute, when schedules are not looked at", lambda: time.time() % 60 < 30)
    page.click_in_front("input[type=checkbox]")
    rewind_schedule(home, "nightly_evaluation", A_DAY_S)

    page.open(f"{server}/runs")
    page.wait_for_text("nightly_evaluation", "partition: clip", "Success")
    page.open(f"{server}/locations/distillnerf/schedules/nightly_evaluation")
    page.wait_for_text("1 run requested")
    page.photograph("nightly-tick", height=430)  # below is a duration, since three in the morning
    evaluated = home.require("student_evaluation", "clip")
    assert evaluated != was_good

    page.open(f"{server}/assets/student_evaluation?view=checks&checkDetail=no_regression")
    page.wait_for_text("no_regression", "Failed", "clip", "depth_lidar.abs_rel is", "wanted not worse than")
    page.photograph("nightly-check")


def make_a_student_that_became_worse(home: Home) -> StoreVersion:
    """Fit a student that learns the closed-form world within seconds, evaluate it, then fit one that learns nothing."""
    config = student_config()
    optimizer = OptimizerConfig(learning_rate=3e-3, betas=(0.9, 0.99), schedule="cosine", ema_decay=0.9)
    fit = replace(config.fit, max_steps=60, optimizer=optimizer, runtime=FitRuntime(device="cpu", save_every=1000))
    selection = HomeSelection.load(home.root)
    assert selection is not None
    fit_student(home, "clip", replace(config, fit=fit))
    evaluated = evaluate_checkpoint(home, "clip", selection.resolve("clip").evaluation)
    fit_student(home, "clip", replace(config, fit=replace(fit, max_steps=1)))
    return evaluated.version


def rewind_schedule(home: Home, name: str, seconds: float) -> None:
    """Make a schedule that was just switched on one that was switched on earlier: nobody waits for the night here."""
    with open_instance(home.root) as instance:

        def switched_on() -> Any:
            running = instance.all_instigator_state(instigator_statuses={InstigatorStatus.RUNNING})
            return next((state for state in running if state.name == name), None)

        state = wait_for("the schedule to be switched on", switched_on)
        data = ScheduleInstigatorData(state.instigator_data.cron_schedule, time.time() - seconds)
        instance.update_instigator_state(state.with_data(data))
