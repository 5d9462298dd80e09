"""Dagster's web server, closed to the pages of other sites; with the argument ``dev``, ``dagster dev`` with it.

The browser of whoever has the UI open also shows other sites, and sends what these tell it to this machine. Dagster's
server obeys whoever asks, even in the address of a picture.
"""

import os
import sys
from typing import Any
from urllib.parse import urlsplit

import dagster_webserver.app
from dagster._cli import dev
from dagster_shared.ipc import open_ipc_subprocess
from dagster_webserver.cli import main as serve
from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = "MIST_UI_HOSTS"
"""Environment variable: further names by which the UI is reached, such as that of a reverse proxy, by commas."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


def hosts() -> list[str]:
    """The names by which the UI may be reached."""
    return [*_LOOPBACK, *(name.strip().lower() for name in os.environ.get(HOSTS, "").split(",") if name.strip())]


class OwnPagesAlone:
    """Refuses what a page of another site sends, and questions in an address, which need no page at all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        refused = _refusal(scope) if scope["type"] in ("http", "websocket") else None
        await (PlainTextResponse(*refused) if refused else self.app)(scope, receive, send)


def _refusal(scope: Scope) -> tuple[str, int] | None:
    headers = Headers(scope=scope)
    origin = urlsplit(headers.get("origin", ""))
    foreign = origin.netloc != headers.get("host") and origin.hostname not in hosts()[len(_LOOPBACK) :]
    if "origin" in headers and foreign:
        return f"Pages of {origin.netloc or 'other sites'} may not use this server.", 403
    asked = scope["path"].endswith("/graphql") and scope.get("method") == "GET" and scope["query_string"]
    return ("Ask by POST.", 405) if asked else None


class ClosedWebserver(DagsterWebserver[Any, Any]):
    """Dagster's web server behind both guards."""

    def build_middleware(self) -> list[Middleware]:
        """The guards first."""
        guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts()), Middleware(OwnPagesAlone)]
        return [*guards, *super().build_middleware()]


def _start(command: list[str], **how: Any) -> Any:
    """Start a process of ``dagster dev``: this module in the place of Dagster's web server."""
    return open_ipc_subprocess(
        ["mist_dagster.instance.webserver" if word == "dagster_webserver" else word for word in command], **how
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["dev"]:
        vars(dev)["open_ipc_subprocess"] = _start
        dev.dev_command(sys.argv[2:])
    else:
        vars(dagster_webserver.app)["DagsterWebserver"] = ClosedWebserver
        serve()  # type: ignore[no-untyped-call]
