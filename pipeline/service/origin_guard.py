"""A guard in front of the web server: only pages of the UI itself can talk to it.

Any page that a browser has open may send requests to this machine. A name that its owner points at 127.0.0.1 (DNS
rebinding) makes such a page look like the UI's own, except for the name in the header Host. A plain image or form of
another page carries the right Host, but another Origin, or none and a word of the browser that the request crosses
sites. Dagster executes GraphQL from any of these.
"""

from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class OriginGuard:
    """Pass on what the UI's own pages and programs of this machine ask; refuse the rest with 403 and the reason.

    Args:
        app: Application behind it.
        names: Names and addresses under which the UI may be reached, without port.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower().strip("[]") for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[:100]})
        else:
            await PlainTextResponse(f"refused: {refusal}\n", status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        """Return why a connection is refused; None if it is not."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(f"//{host}") not in self._names:
            return f"Host is {host!r}, want one of {', '.join(sorted(self._names))} (--allowed-hosts names more)"
        origin = headers.get("origin")
        if origin is not None and _authority(origin) != _authority(f"//{host}"):
            return f"Origin is {origin!r}, want that of {host!r}"
        crosses = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if crosses and headers.get("sec-fetch-mode") != "navigate":
            return "the request comes from a page of another site"
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["path"].endswith("/graphql") and scope.get("method") == "GET" and "query" in asked:
            return "GraphQL is taken by POST alone: a link or an image can ask by GET"
        return None


def _name(url: str) -> str | None:
    """Return the lower-case name in a URL; None if it has none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _authority(url: str) -> tuple[str | None, int | None]:
    """Return name and port of a URL; the usual ports of http and https count as none, as browsers leave them out."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None, None
    return parts.hostname, None if port in (80, 443) else port
