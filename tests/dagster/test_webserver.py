"""Who may use the web server: its own pages, under its own names."""

import asyncio
import inspect
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import dagster_webserver.app
import pytest
from dagster._cli import dev
from starlette.responses import PlainTextResponse

from mist_dagster.instance.webserver import OwnPagesAlone

from .serving import ask, serving


def status_of(headers: dict[str, str], method: str = "POST", query: str = "") -> int:
    """How a request for the server's GraphQL is answered behind the guard."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads a refused request")

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/graphql", "query_string": query.encode(), "headers": pairs}
    asyncio.run(OwnPagesAlone(PlainTextResponse("done"))(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    "origin, status",
    [
        (None, 200),  # a command
        ("http://127.0.0.1:3000", 200),
        ("http://127.0.0.1:8888", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("https://mist.example", 403),
    ],
)
def test_pages_of_other_sites_are_refused(origin: str | None, status: int) -> None:
    assert status_of({"host": "127.0.0.1:3000", **({"origin": origin} if origin else {})}) == status


def test_a_reverse_proxy_is_let_in_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIST_UI_HOSTS", "mist.example")
    assert status_of({"host": "mist.example", "origin": "https://mist.example:8443"}) == 200
    assert status_of({"host": "mist.example", "origin": "https://other.example"}) == 403


def test_questions_in_an_address_are_refused() -> None:
    assert status_of({"host": "127.0.0.1:3000"}, "GET", "query=mutation{x}") == 405
    assert status_of({"host": "127.0.0.1:3000"}, "GET") == 200


def test_dagster_still_has_the_places_where_the_guard_is_put() -> None:
    assert callable(vars(dev)["open_ipc_subprocess"])
    assert vars(dagster_webserver.app)["DagsterWebserver"].build_middleware
    assert "DagsterWebserver(" in inspect.getsource(dagster_webserver.app)


@pytest.mark.slow
def test_a_running_ui_obeys_its_own_pages_alone(home: Path, tmp_path: Path) -> None:
    with serving(home, tmp_path / "ui.log") as address:
        assert ask(address, "{ version }")

        def answer(path: str, **headers: str) -> int:
            content = b'{"query": "{ version }"}' if path == "graphql" else None
            request = urllib.request.Request(f"{address}/{path}", content, headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return int(reply.status)
            except urllib.error.HTTPError as error:
                return error.code

        json = {"Content-Type": "application/json"}
        assert answer("graphql", **json, Origin=address) == 200
        assert answer("graphql", **json, Origin="http://evil.example") == 403
        assert answer("graphql", **json, Host="evil.example") == 400
        assert answer("graphql?query={version}") == 405
        assert answer("") == 200
