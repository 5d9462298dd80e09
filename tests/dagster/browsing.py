"""Requests to the pages of studies behind the guards of the UI, without a server."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import PlainTextResponse

from mist_dagster.instance.webserver import Beside, guarded
from mist_dagster.site.application import application

DAGSTER = "Dagster's own page"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.content)


def get(path: str, headers: Mapping[str, str] | None = None, query: str = "") -> Answer:
    """Ask for a path as the application sees it: the server has decoded it."""
    return asked("GET", path, headers or {}, query)


def post(path: str, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    sent = {"content-type": "application/json", "origin": "http://127.0.0.1:3000", **(headers or {})}
    return asked("POST", path, sent, "", json.dumps(value).encode())


def asked(method: str, path: str, headers: Mapping[str, str], query: str, content: bytes = b"") -> Answer:
    sent: list[dict[str, Any]] = []
    given = {"host": "127.0.0.1:3000", **headers}

    async def send(message: Any) -> None:
        sent.append(message)

    unread = [content]

    async def receive() -> Any:
        if not unread:
            await asyncio.Event().wait()  # a client that stays connected
        return {"type": "http.request", "body": unread.pop(), "more_body": False}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 3000),
        "root_path": "",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(guarded(Beside(application(), PlainTextResponse(DAGSTER)))(scope, receive, send))
    start, *rest = sent
    body = b"".join(message.get("body", b"") for message in rest)
    return Answer(start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body)
