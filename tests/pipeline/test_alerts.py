"""Alerts reach a webhook and a mail server, say what happened, and give no password away."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

from pipeline.alerts import Alert, AlertChannels, AlertError, send_alert
from pipeline.resources import alert_channels_from_environment
from pipeline.sensors import student_alerts

ALERT = Alert(title="student depth failed\nits check", lines=("abs_rel is 1.07, wanted 0.36",), partition="depth")


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def webhook(status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}/hook/secret", got


@contextmanager
def mail_server() -> Iterator[tuple[str, list[str]]]:
    """A mail server that takes one message a connection and offers no TLS."""
    got: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 test")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                if word == "DATA":
                    self.say("354 go on")
                    message = []
                    while (part := self.rfile.readline().decode().rstrip("\r\n")) != ".":
                        message.append(part)
                    got.append("\n".join(message))
                self.say("221 bye" if word == "QUIT" else "250 ok")
                if word == "QUIT":
                    return

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"127.0.0.1:{port}", got


def test_an_alert_reaches_both_channels() -> None:
    with webhook() as (url, posted), mail_server() as (server, mailed):
        send_alert(ALERT, AlertChannels(webhook=url, recipients=("night@example.org",), smtp=f"smtp://{server}"))
    (post,) = posted
    assert post["text"] == "student depth failed\nits check\n- abs_rel is 1.07, wanted 0.36"
    assert (post["partition"], post["lines"]) == ("depth", ["abs_rel is 1.07, wanted 0.36"])
    (mail,) = mailed
    assert "Subject: student depth failed its check" in mail
    assert "To: night@example.org" in mail
    assert "abs_rel is 1.07" in mail


def test_a_fault_names_the_channel_and_no_secret_and_the_other_channel_is_tried() -> None:
    with webhook(500) as (url, _), mail_server() as (server, mailed):
        channels = AlertChannels(webhook=url, recipients=("night@example.org",), smtp=f"smtp://{server}")
        with pytest.raises(AlertError, match="not delivered: webhook: answered 500"):
            send_alert(ALERT, channels)
        assert len(mailed) == 1
        guarded = AlertChannels(recipients=("night@example.org",), smtp=f"smtp://me:hunter2@{server}")
        with pytest.raises(AlertError, match="offers no TLS, and a password is not sent") as raised:
            send_alert(ALERT, guarded)
        assert len(mailed) == 1
    with pytest.raises(AlertError, match="not delivered: webhook: ConnectionRefusedError") as refused:
        send_alert(ALERT, AlertChannels(webhook=url))
    said = f"{raised.value!r} {guarded!r} {refused.value!r} {AlertChannels(webhook=url)!r}"
    assert "hunter2" not in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "wrong", [{"smtp": "mail.example.org"}, {"smtp": "http://x"}, {"webhook": "file:///etc/passwd"}]
)
def test_an_address_of_another_form_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="address"):
        AlertChannels(**wrong)


def test_the_environment_names_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILLNERF_ALERT_WEBHOOK", "DISTILLNERF_ALERT_MAIL", "DISTILLNERF_SMTP"):
        monkeypatch.delenv(name, raising=False)
    assert not alert_channels_from_environment().are_named
    monkeypatch.setenv("DISTILLNERF_ALERT_MAIL", "a@example.org, b@example.org")
    assert alert_channels_from_environment().recipients == ("a@example.org", "b@example.org")


def report_check(instance: dg.DagsterInstance, partition: str, *, passed: bool) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("student_evaluation"),
            check_name="no_regression",
            passed=passed,
            metadata={
                "failed": dg.MetadataValue.json([{"name": "abs_rel", "value": "1.07", "wanted": "not worse than 0.36"}])
            },
            partition=partition,
        )
    )


def test_the_sensor_sends_each_failed_check_once_and_tries_again_what_was_not_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        cursor: str | None = None

        def tick() -> str:
            nonlocal cursor
            context = dg.build_sensor_context(instance=instance, cursor=cursor)
            said = student_alerts(context)
            cursor = context.cursor
            assert isinstance(said, dg.SkipReason)
            return str(said.skip_message)

        monkeypatch.delenv("DISTILLNERF_ALERT_MAIL", raising=False)
        monkeypatch.delenv("DISTILLNERF_ALERT_WEBHOOK", raising=False)
        assert "nobody to tell" in tick()
        with webhook() as (url, posted):
            monkeypatch.setenv("DISTILLNERF_ALERT_WEBHOOK", url)
            report_check(instance, "clip", passed=False)
            assert tick() == "alerts begin now"
            report_check(instance, "dinov2", passed=True)
            assert tick() == "nothing happened"
            report_check(instance, "depth", passed=False)
        assert tick() == "0 of 1 alerts sent"
        with webhook() as (url, posted):
            monkeypatch.setenv("DISTILLNERF_ALERT_WEBHOOK", url)
            assert tick() == "1 of 1 alerts sent"
            assert tick() == "nothing happened"
        (post,) = posted
        assert post["lines"] == ["abs_rel is 1.07, wanted not worse than 0.36"]
        assert (post["asset"], post["partition"]) == ("student_evaluation", "depth")
