"""The web UI: Dagster's web server behind guards against other sites, its daemon and its code server.

Other sites that are open in the same browser can send requests to this machine, and Dagster's server carries out every
request that it gets, even one in the address of a picture. The guards block requests of other origins and hosts.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
import yaml
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse, RedirectResponse

from mist_dagster.dagster_private import daemon_command, web_application
from mist_dagster.instance import addresses, children, tensorboard
from mist_dagster.instance.home import CODE_LOCATION, announced_web_server, dagster_home, instance
from mist_dagster.instance.studies import registered_studies
from mist_dagster.instance.watch import CurrentPages, Watch
from mist_ops.errors import ConfigError, MachineError, counted

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = "MIST_UI_HOSTS"
"""Environment variable: further host names of the UI, such as that of a reverse proxy, separated by commas."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_SECONDS_TO_END = 60
_SECONDS_BETWEEN_LOOKS = 1.0
_logger = logging.getLogger("mist")


def hosts() -> list[str]:
    """Host names under which the UI answers."""
    return [*_LOOPBACK, *(name.strip().lower() for name in os.environ.get(HOSTS, "").split(",") if name.strip())]


class SameOriginOnly:
    """Block requests of other origins, and GraphQL queries in a URL, which any page can send by a link or a picture."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or refuse it."""
        refused = _refusal(scope) if scope["type"] in ("http", "websocket") else None
        await (PlainTextResponse(*refused) if refused else self.app)(scope, receive, send)


def _refusal(scope: "Scope") -> tuple[str, int] | None:
    headers = Headers(scope=scope)
    origin = urlsplit(headers.get("origin", ""))
    foreign = origin.netloc != headers.get("host") and origin.hostname not in hosts()[len(_LOOPBACK) :]
    if "origin" in headers and foreign:
        return f"Cross-site request from {origin.netloc or 'another site'} blocked.", 403
    query = scope["path"].endswith("/graphql") and scope.get("method") == "GET" and scope["query_string"]
    return ("Send GraphQL queries by POST.", 405) if query else None


class TensorBoardLinks:
    """Redirect the links to curves, which are recorded, to the port of TensorBoard, which changes."""

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Redirect a link, or pass a request on."""
        if scope["type"] != "http" or scope["path"] != tensorboard.LINK:
            await self.app(scope, receive, send)
            return
        url = tensorboard.target(scope["query_string"].decode())
        missing = PlainTextResponse("TensorBoard is off. Start mist_ui with a --tensorboard-port that is free.", 404)
        await (RedirectResponse(url) if url else missing)(scope, receive, send)


class Beside:
    """Serve the pages of studies, and everything else by Dagster."""

    def __init__(self, pages: "ASGIApp", app: "ASGIApp") -> None:
        self.pages = pages
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on."""
        root = addresses.ROOT
        ours = scope["type"] == "http" and (scope["path"] == root or scope["path"].startswith(f"{root}/"))
        await (self.pages if ours else self.app)(scope, receive, send)


def guarded(app: "ASGIApp") -> "ASGIApp":
    """Put an application behind both guards, with links to TensorBoard."""
    return TrustedHostMiddleware(SameOriginOnly(TensorBoardLinks(app)), allowed_hosts=hosts())


def serve(port: int, pages: "ASGIApp") -> None:
    """Serve the UI on loopback, with a daemon and a code server beside it, until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        port: The port.
        pages: The application that serves the pages of studies.

    Raises:
        ConfigError: The port cannot be used.
        MachineError: One of the servers ended by itself.
    """
    _interrupt_on_signals()
    url = f"http://127.0.0.1:{port}"
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(port))
        records = stack.enter_context(instance())
        print(f"UI of {dagster_home()}: {url} (stop with Ctrl-C)", flush=True)  # noqa: T201
        studies = counted(len(registered_studies()), "study", "studies")
        print(f"Pages of {studies}: {url}{addresses.ROOT}", flush=True)  # noqa: T201
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mist_ui_")))
        address, workspace = folder / "code", folder / "workspace.yaml"
        server = {"grpc_server": {"socket": str(address), "location_name": CODE_LOCATION}}
        workspace.write_text(yaml.safe_dump({"load_from": [server]}))
        watch = Watch()
        code = stack.enter_context(_process(_code_server(address)))
        _wait_for(code, address)
        daemon = stack.enter_context(_process(daemon_command(workspace)))
        app, reload = stack.enter_context(web_application(records, workspace))
        refresh = partial(watch.refresh, partial(reload, CODE_LOCATION))
        web = stack.enter_context(_serving(guarded(Beside(pages, CurrentPages(app, refresh))), listener))
        stack.enter_context(announced_web_server(url))
        while web.is_alive():
            if code.poll() is not None:
                _logger.warning("The code server ended with status %d and is restarted.", code.returncode)
                code = stack.enter_context(_process(_code_server(address)))
            if daemon.poll() is not None:
                raise _ended("daemon", daemon.returncode)
            refresh()
            web.join(_SECONDS_BETWEEN_LOOKS)
        raise _ended("web server")


def _interrupt_on_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A shell script starts background processes with SIGINT ignored; an ignored SIGHUP is what nohup is for.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    """A socket on loopback that does not listen yet."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} cannot be used: {error.strerror}. Choose another --port.",
                code="port-unavailable",
                field="port",
                found=port,
            ) from error
        yield listener


def _code_server(address: Path) -> list[str]:
    command = [sys.executable, "-m", "dagster", "code-server", "start", "--socket", str(address)]
    return [*command, "-m", CODE_LOCATION, "--log-level", "warning"]


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process beside the block, and interrupt it and all processes that it started when the block ends."""
    with children.start(command, process_group=0) as process:
        try:
            yield process
        finally:
            _ignore_signals()  # interrupted a second time, this would leave processes behind
            for number in (signal.SIGINT, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(_SECONDS_TO_END)


def _wait_for(process: "subprocess.Popen[bytes]", address: Path) -> None:
    """Wait until a process listens on a Unix socket."""
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(address))
            return
        time.sleep(0.1)
    raise _ended("code server", process.returncode)


@contextlib.contextmanager
def _serving(app: "ASGIApp", listener: socket.socket) -> Iterator[threading.Thread]:
    """Serve an application in a thread, as the main thread gets the signals."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.should_exit = True
        thread.join(_SECONDS_TO_END)


def _ended(name: str, status: int | None = None) -> MachineError:
    how = "" if status is None else f" with status {status}"
    return MachineError(
        f"The {name} of the UI ended{how}. The lines above say why; start mist_ui again.",
        code="server-ended",
        everywhere=True,
        found=status,
    )
