"""The Dagster UI as a person uses it: a real browser, a real web server and daemon, a real materialisation."""

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
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from websockets.sync.client import ClientConnection, connect

from pipeline.instance import open_instance
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.stores.versioned import Home

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 150.0  # of a machine that does much else; nothing here waits without looking
SCENE = "tiny.scene-0001"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
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
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE_S))
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

    def click(self, text: str, selector: str = "button, a, [role=button], [role=menuitem]") -> None:
        """Click the first visible, enabled element of the selector whose text begins with ``text``."""
        find = f"""(() => {{
            const begins = e => (e.innerText || '').trim().startsWith({json.dumps(text)});
            const shown = e => e.offsetParent !== null && !e.disabled && begins(e);
            const found = [...document.querySelectorAll({json.dumps(selector)})].filter(shown)[0];
            if (!found) return null;
            found.scrollIntoView({{block: 'center'}});
            const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        try:
            x, y = wait_for(f"{text!r} to click", lambda: self.evaluate(find))
        except TimeoutError:
            self.photograph("missing-button")
            raise
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_until(self, text: str, selector: str, *expected: str) -> None:
        """Click, again and again, until the page shows what a click leads to: a page may be drawn before it listens."""

        def opened() -> bool:
            self.click(text, selector)
            time.sleep(1.0)
            return all(t in self.text for t in expected)

        wait_for(f"{expected} after a click on {text!r}", opened)

    def photograph(self, name: str) -> None:
        """Keep a picture beside the test's other temporary files."""
        data = self.call("Page.captureScreenshot")["data"]
        (self._pictures / f"{name}.png").write_bytes(base64.b64decode(data))


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    port = free_port()
    profile = tmp_path / "chromium"
    browser = subprocess.Popen(
        [
            str(CHROMIUM),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1000"),
            *(
                f"--remote-debugging-port={port}",
                "--remote-allow-origins=*",
                f"--user-data-dir={profile}",
                "about:blank",
            ),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        tabs = wait_for(
            "the browser", lambda: [t for t in get_json(f"http://127.0.0.1:{port}/json") if t["type"] == "page"]
        )
        with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None) as connection:
            yield Page(connection, tmp_path)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


@pytest.fixture
def server(prepared_home: Home) -> Iterator[str]:
    """``distillnerf ui`` on a home with one ingested scene; yields its address."""
    ingest_scene(prepared_home, SceneKey.parse(SCENE))
    with open_instance(prepared_home.root) as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("scene", partition=SCENE))
    port = free_port()
    log = prepared_home.root / "ui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "ui", "--home", str(prepared_home.root), "--port", str(port)],
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


def test_an_asset_is_materialised_from_the_browser(server: str, page: Page, prepared_home: Home) -> None:
    assert listening_addresses(int(server.rsplit(":", 1)[1])) == {"127.0.0.1"}

    page.open(f"{server}/asset-groups")
    page.wait_for_text("recordings", "scenes", "image_teachers", "scene_teacher", "student", "results")
    page.photograph("asset-graph")

    page.open(f"{server}/assets/sky_mask")
    page.wait_for_text("Where each image shows sky", "perception-data")
    page.click_until("Materialize", "button", "Partition selection")
    page.click_until("Select a partition", "div, button, [role=button]", "tiny.scene-0001", "tiny.scene-0002")
    page.click(SCENE, "a, [role=menuitem]")
    page.wait_for_text("1 partition")
    page.photograph("partition-chosen")
    page.click("Launch")

    wait_for("the dialog to close", lambda: "Partition selection" not in page.text)
    page.open(f"{server}/runs")
    page.wait_for_text(f"partition: {SCENE}", "Success")
    page.photograph("runs")
    version = prepared_home.require("sky_mask", SCENE)
    assert prepared_home.latest("sky_mask", "tiny.scene-0002") is None

    page.open(f"{server}/assets/sky_mask?partition={SCENE}")
    page.wait_for_text(version.digest, "snapshot", "preview", "quality_gate")
    page.photograph("materialised")
