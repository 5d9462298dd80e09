"""TensorBoard beside the UI: the curves of all studies of this home, on this machine alone."""

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from mist_dagster.instance.home import dagster_home
from mist_ops.study import Study

_ADDRESS = "tensorboard.url"
_USUAL = "http://127.0.0.1:6006"


def show(study: Study) -> None:
    """Have TensorBoard show a study's curves, from when there are any; it looks for new ones every few seconds."""
    link = _folder() / study.key
    with contextlib.suppress(OSError):  # another command does the same, or there are no links on this disk
        if not link.is_symlink() or link.readlink() != study.curves:
            link.unlink(missing_ok=True)
            link.symlink_to(study.curves)


def page(study: Study, fold: int) -> str:
    """The address of a fold's curves, where TensorBoard was last served or else is by default."""
    noted = dagster_home() / _ADDRESS
    address = noted.read_text() if noted.exists() else _USUAL
    run = quote(f"^{study.key}/{study.logs(fold).name}$")
    return f"{address}/?runFilter={run}#timeseries"


@contextlib.contextmanager
def serving(port: int, studies: Iterable[Study]) -> Iterator[None]:
    """Serve TensorBoard on loopback while the block runs; not if the port is 0, or taken, which a sentence tells."""
    taken = port and not _is_free(port)
    if taken:
        print(f"Port {port} is taken, so there is no TensorBoard. Choose another --tensorboard-port.", flush=True)  # noqa: T201
    if taken or not port:
        yield
        return
    shutil.rmtree(_folder())  # links to studies that are gone, or the logs themselves in a home that was copied
    for study in studies:
        show(study)
    home, address = dagster_home(), f"http://127.0.0.1:{port}"
    (home / _ADDRESS).write_text(address)
    print(f"TensorBoard will be at {address}.", flush=True)  # noqa: T201
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(_folder())]
    with (home / "tensorboard.log").open("w") as log:
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def _folder() -> Path:
    """A link to the curves of each study."""
    folder = dagster_home() / "tensorboard"
    folder.mkdir(exist_ok=True)
    return folder


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a server left a minute ago is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
