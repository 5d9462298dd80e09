"""The web server of the UI: who may use it, and what becomes of its processes."""

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from mist_dagster import cli
from mist_dagster.instance.home import dagster_home
from mist_dagster.instance.webserver import guarded

from .serving import ask, free_port, serving, wait_until


def status_of(headers: dict[str, str], method: str = "POST", query: str = "", kind: str = "http") -> int:
    """The status of a request for the server's GraphQL behind the guards."""
    return int(answer_to(headers, method, query, kind)["status"])


def answer_to(headers: dict[str, str], method: str, query: str, kind: str, path: str = "/graphql") -> dict[str, Any]:
    """The start of the answer to a request behind the guards."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a refused request is not read")

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "query_string": query.encode(), "headers": pairs}
    asyncio.run(guarded(PlainTextResponse("done"))(scope, receive, send))
    return sent[0]


@pytest.mark.parametrize(
    "origin, status",
    [
        (None, 200),  # a command, not a browser
        ("http://127.0.0.1:3000", 200),
        ("http://127.0.0.1:8888", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("https://mist.example", 403),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_cross_site_requests_are_blocked(origin: str | None, status: int, kind: str) -> None:
    assert status_of({"host": "127.0.0.1:3000", **({"origin": origin} if origin else {})}, kind=kind) == status


def test_links_to_curves_follow_the_port_of_tensorboard(home: Path) -> None:
    asked: Any = ({"host": "127.0.0.1:3000"}, "GET", "runFilter=%5Ebrains%24", "http", "/tensorboard")
    assert answer_to(*asked)["status"] == 404  # it is off
    (dagster_home() / "tensorboard.url").write_text("http://127.0.0.1:7007")
    answer = answer_to(*asked)
    assert answer["status"] == 307
    assert dict(answer["headers"])[b"location"] == b"http://127.0.0.1:7007/?runFilter=%5Ebrains%24#timeseries"


@pytest.mark.parametrize(
    "host, status", [("localhost:3000", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400)]
)
def test_unknown_host_names_are_refused(host: str, status: int) -> None:
    assert status_of({"host": host}) == status


def test_a_reverse_proxy_is_allowed_by_its_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIST_UI_HOSTS", "mist.example")
    assert status_of({"host": "mist.example", "origin": "https://mist.example:8443"}) == 200
    assert status_of({"host": "mist.example", "origin": "https://other.example"}) == 403


def test_graphql_queries_in_a_url_are_refused() -> None:
    assert status_of({"host": "127.0.0.1:3000"}, "GET", "query=mutation{x}") == 405
    assert status_of({"host": "127.0.0.1:3000"}, "GET") == 200


def test_a_port_in_use_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.ui(["--port", str(port), "--tensorboard-port", "0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"Error: Port {port} ")
    assert error.endswith("[port-unavailable]\n")


def children(process: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    direct = [int(child) for tasks in Path(f"/proc/{process}/task").iterdir() for child in _words(tasks / "children")]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["", "first", "dagster._daemon"])
def test_the_ui_ends_with_all_its_processes(home: Path, tmp_path: Path, killed: str) -> None:
    """On SIGTERM to its first process only, and when that process or its daemon is killed."""
    with serving(home, tmp_path / "ui.log", free_port()) as address:
        [first] = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and f"--port\0{address.rpartition(':')[2]}\0" in _command(int(entry.name))
        ]
        processes = children(first)
        assert len(processes) >= 3
        assert any("tensorboard.main" in _command(process) for process in processes)
        daemon = next(process for process in processes if "dagster._daemon" in _command(process))
        os.kill(daemon if killed.startswith("dagster") else first, signal.SIGKILL if killed else signal.SIGTERM)
        wait_until(lambda: not any(_command(process) for process in [first, *processes]))
    assert ("[server-ended]" in (tmp_path / "ui.log").read_text()) == killed.startswith("dagster")


def _command(process: int) -> str:
    path = Path(f"/proc/{process}/cmdline")
    return path.read_text() if path.exists() else ""


def upgrade(address: str, origin: str) -> int:
    """The status of opening the WebSocket by which pages get updates."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    key = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Protocol": "graphql-ws",
        "Origin": origin,
    }
    connection.request("GET", "/graphql", headers={**headers, **key})
    with contextlib.closing(connection):
        return connection.getresponse().status


@pytest.mark.slow
def test_a_running_ui_answers_its_own_pages_only(home: Path, tmp_path: Path) -> None:
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
        assert upgrade(address, origin=address) == 101
        assert upgrade(address, origin="http://evil.example") == 403
        reload = (
            'mutation { reloadRepositoryLocation(repositoryLocationName: "mist_dagster.definitions") { __typename } }'
        )
        assert ask(address, reload)["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"
