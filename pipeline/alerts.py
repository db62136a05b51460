"""Alerts about students that became worse: to a webhook and by e-mail.

Addresses and passwords come from the environment (``pipeline.resources``) and are in no message and no error.
"""

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from urllib.parse import SplitResult, unquote, urlsplit

_TIMEOUT_S = 15.0
_PORTS = {"smtp": 25, "smtps": 465}


class AlertError(RuntimeError):
    """An alert could not be delivered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What somebody should know by the morning.

    Attributes:
        title: One line.
        lines: What happened, a line each.
        asset: Asset concerned.
        partition: Its partition.
        run_id: Dagster run that found it; empty outside Dagster.
    """

    title: str
    lines: tuple[str, ...]
    asset: str = ""
    partition: str = ""
    run_id: str = ""

    @property
    def text(self) -> str:
        """Return the alert as plain text."""
        return "\n".join([self.title, *(f"- {line}" for line in self.lines)])


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChannels:
    """Where alerts go.

    Attributes:
        webhook: Address that gets a JSON object by POST, with ``text`` as chat services want it; empty for none.
        recipients: Mail addresses.
        smtp: Mail server, ``smtp://[user:password@]host[:port]``, or ``smtps://`` for TLS from the start. With
            ``smtp://``, TLS is begun where the server offers it, and always before a password is sent.
    """

    webhook: str = field(default="", repr=False)
    recipients: tuple[str, ...] = ()
    smtp: str = field(default="smtp://127.0.0.1", repr=False)

    def __post_init__(self) -> None:
        scheme = urlsplit(self.smtp).scheme
        if scheme not in _PORTS or not urlsplit(self.smtp).hostname:
            raise ValueError(f"the mail server's address begins with {scheme!r}, want smtp://host or smtps://host")
        if self.webhook and urlsplit(self.webhook).scheme not in ("http", "https"):
            raise ValueError("the webhook's address is no http:// or https:// address")

    @property
    def are_named(self) -> bool:
        """Return whether there is anybody to tell."""
        return bool(self.webhook or self.recipients)


def send_alert(alert: Alert, channels: AlertChannels) -> None:
    """Deliver an alert through every channel.

    Raises:
        AlertError: If one of them failed; the others were tried.
    """
    faults = []
    attempts: list[tuple[str, bool, Callable[[Alert, AlertChannels], None]]] = [
        ("webhook", bool(channels.webhook), _post),
        ("e-mail", bool(channels.recipients), _mail),
    ]
    for name, is_named, deliver in attempts:
        if is_named:
            try:
                deliver(alert, channels)
            except (OSError, smtplib.SMTPException, AlertError) as error:
                faults.append(f"{name}: {_reason(error)}")
    if faults:
        raise AlertError(f"not delivered: {'; '.join(faults)}")


def _post(alert: Alert, channels: AlertChannels) -> None:
    content = json.dumps({"text": alert.text, **asdict(alert)}).encode()
    request = urllib.request.Request(
        channels.webhook, data=content, headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
        pass


def _mail(alert: Alert, channels: AlertChannels) -> None:
    server = urlsplit(channels.smtp)
    message = EmailMessage()
    message["Subject"] = " ".join(alert.title.split())
    message["From"] = channels.recipients[0]
    message["To"] = ", ".join(channels.recipients)
    message.set_content(alert.text)
    with _connected(server) as connection:
        if server.username is not None:
            connection.login(unquote(server.username), unquote(server.password or ""))
        connection.send_message(message)


def _connected(server: SplitResult) -> smtplib.SMTP:
    host, port = str(server.hostname), server.port or _PORTS[server.scheme]
    context = ssl.create_default_context()
    if server.scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_S, context=context)
    connection = smtplib.SMTP(host, port, timeout=_TIMEOUT_S)
    connection.ehlo()
    if connection.has_extn("starttls"):
        connection.starttls(context=context)
    elif server.username is not None:
        connection.close()
        raise AlertError("the server offers no TLS, and a password is not sent without it")
    return connection


def _reason(error: Exception) -> str:
    """Return why a delivery failed, without addresses."""
    if isinstance(error, urllib.error.HTTPError):
        return f"answered {error.code}"
    if isinstance(error, urllib.error.URLError):
        return type(error.reason).__name__ if isinstance(error.reason, Exception) else "unreachable"
    if isinstance(error, AlertError):
        return str(error)
    return type(error).__name__


def told_failures(failed: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Return the failures of an asset check as lines of an alert; see ``assets.checks.FAILED``."""
    return tuple(" ".join(f"{one['name']} is {one['value']}, wanted {one['wanted']}".split()) for one in failed)
