"""TensorBoard beside the UI: the curves of all studies of this home, on loopback."""

import contextlib
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from mist_dagster.instance import children
from mist_dagster.instance.home import dagster_home
from mist_ops.study import Study

_URL = "tensorboard.url"
LINK = "/tensorboard"
"""Path of the UI that redirects to TensorBoard, so that a recorded link follows the port."""


def show(study: Study) -> None:
    """Link a study's curves into TensorBoard's folder, which it scans every few seconds."""
    link = _folder() / study.key
    with contextlib.suppress(OSError):  # another command makes the same link, or the disk has no symbolic links
        if not link.is_symlink() or link.readlink() != study.curves:
            link.unlink(missing_ok=True)
            link.symlink_to(study.curves)


def page(study: Study, fold: int) -> str:
    """Return the link to a fold's curves, in the UI."""
    run = quote(f"^{study.key}/({study.logs(fold).name}|{study.attempt_logs(fold).name})$")
    return f"{LINK}?runFilter={run}"


def target(query: str) -> str | None:
    """Return the URL of TensorBoard with the query of a link, or None if it is not served."""
    recorded = dagster_home() / _URL
    return f"{recorded.read_text()}/?{query}#timeseries" if recorded.exists() else None


@contextlib.contextmanager
def serving(port: int, studies: Iterable[Study]) -> Iterator[None]:
    """Serve TensorBoard on loopback while the block runs; port 0 disables it, a port in use does so with a note."""
    in_use = port and not _is_free(port)
    if in_use:
        print(f"TensorBoard is off: port {port} is in use. Choose another --tensorboard-port.", flush=True)  # noqa: T201
    if in_use or not port:
        yield
        return
    shutil.rmtree(_folder())  # links to deleted studies; real folders in a copied home
    for study in studies:
        show(study)
    home, url = dagster_home(), f"http://127.0.0.1:{port}"
    (home / _URL).write_text(url)
    print(f"TensorBoard: {url}", flush=True)  # noqa: T201
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(_folder())]
    with (home / "tensorboard.log").open("w") as log:
        server = children.start([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
    try:
        yield
    finally:
        (home / _URL).unlink(missing_ok=True)
        server.terminate()
        server.wait()


def _folder() -> Path:
    """Return the folder with a link to the curves of each study."""
    folder = dagster_home() / "tensorboard"
    folder.mkdir(exist_ok=True)
    return folder


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
