"""Only pages of the UI itself, and programs of this machine, reach the web server."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from pipeline.service.origin_guard import LOOPBACK_NAMES, OriginGuard

HERE = {"host": "127.0.0.1:3000"}


async def dagster(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "served"})


def ask(
    headers: dict[str, str], *, kind: str = "http", method: str = "POST", path: str = "/graphql", query: str = ""
) -> dict[str, Any]:
    """Return the first message that a client gets."""
    told: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(OriginGuard(dagster, (*LOOPBACK_NAMES, "dagster.example"))(scope, receive, send))
    return told[0]


@pytest.mark.parametrize(
    "headers",
    [
        HERE,
        {"host": "localhost:3000"},
        {"host": "[::1]:3000", "origin": "http://[::1]:3000"},
        {**HERE, "origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-origin"},
        {"host": "dagster.example", "origin": "https://dagster.example"},
        {"host": "DAGSTER.example", "origin": "https://dagster.example:443"},
    ],
    ids=["program", "name", "ipv6", "page", "proxy", "case and port"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_its_own_pages_and_programs_are_served(headers: dict[str, str], kind: str) -> None:
    assert ask(headers, kind=kind) == {"type": "served"}


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "rebound.example:3000", "origin": "http://rebound.example:3000"},
        {"host": "127.0.0.1.rebound.example:3000"},
        {},
        {"host": "[::1"},
        {**HERE, "origin": "http://elsewhere.example"},
        {**HERE, "origin": "http://127.0.0.1:8888"},
        {**HERE, "origin": "null"},
        {**HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {**HERE, "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
    ids=["rebound", "alike", "none", "broken", "page", "other port", "sandbox", "image", "neighbour"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_pages_from_elsewhere_are_refused(headers: dict[str, str], kind: str) -> None:
    answer = ask(headers, kind=kind)
    if kind == "http":
        assert (answer["type"], answer["status"]) == ("http.response.start", 403)
    else:
        assert (answer["type"], answer["code"]) == ("websocket.close", 1008)


def test_a_link_from_elsewhere_may_open_a_page_and_no_more() -> None:
    link = {**HERE, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(link, method="GET", path="/runs") == {"type": "served"}
    assert ask(link, method="GET", path="/graphql", query="query=mutation%20%7B%7D")["status"] == 403
    assert ask(HERE, method="GET", path="/graphql", query="query=x")["status"] == 403
