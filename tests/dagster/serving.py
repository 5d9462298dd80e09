"""A running ``mist_ui`` and its GraphQL API."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TERMINATE = 'mutation { terminateRun(runId: "%s") { __typename } }'


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.25)
    raise AssertionError(f"condition not met within {seconds} s")


def ask(address: str, query: str, variables: dict[str, Any] | None = None) -> Any:
    content = json.dumps({"query": query, "variables": variables or {}}).encode()
    request = urllib.request.Request(f"{address}/graphql", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["data"]


def answers(address: str) -> bool:
    try:
        return bool(ask(address, "{ version }"))
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(home: Path, log: Path, tensorboard_port: int = 0) -> Iterator[str]:
    """Run ``mist_ui`` of a home on a free port."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    code = "import sys; from mist_dagster import cli; sys.exit(cli.ui(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--port", str(port), "--tensorboard-port", str(tensorboard_port)]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    with log.open("w") as stream:
        server = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_until(lambda: answers(address) or server.poll() is not None, 180)
        assert server.poll() is None, log.read_text()
        yield address
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)
