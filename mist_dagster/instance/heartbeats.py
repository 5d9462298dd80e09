"""Heartbeats, which show whether the processes of a run still exist, on this machine and on others.

Each process that executes a run or a step holds a lock on a file and updates its modification time. On the same machine
the lock counts: the kernel releases it when the process dies. On another machine, which may be switched off, the time
counts. A process that ends normally removes its file.
"""

import contextlib
import fcntl
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SECONDS_BETWEEN = 10.0
SECONDS_UNTIL_LOST = 180.0
"""More than a network file system caches the time of a file."""

SECONDS_TO_REPORT = 10.0
"""For which the server that started a killed process may report how it ended, or itself be started again."""

_NEW = ".new-"
"""Prefix of files that are not locked yet."""


@contextlib.contextmanager
def heartbeat(folder: Path, run_id: str) -> Iterator[Callable[[], None]]:
    """Keep a heartbeat of this process while the block runs; yield the function that renews it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_NEW, dir=folder)
    with os.fdopen(handle, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(socket.gethostname())
        stream.flush()
        path = Path(name).rename(folder / f"{run_id}.{Path(name).name.removeprefix(_NEW)}")

        def renew() -> None:
            with contextlib.suppress(OSError):  # the file system may be away for a while
                os.utime(path)

        try:
            yield renew
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def kept(folder: Path, run_id: str, over: Callable[[], bool], end: Callable[[], None]) -> Iterator[None]:
    """Renew a heartbeat in a thread while the block runs, and call ``end`` once if the run is over meanwhile."""
    stopped = threading.Event()

    def keep(renew: Callable[[], None]) -> None:
        while not stopped.wait(SECONDS_BETWEEN):
            renew()
            with contextlib.suppress(Exception):  # the records may be unreachable
                if over() and not stopped.is_set():
                    end()
                    break
        while not stopped.wait(SECONDS_BETWEEN):
            renew()

    with heartbeat(folder, run_id) as renew:
        thread = threading.Thread(target=keep, args=[renew], name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()


def ended_here(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the runs, and the heartbeats, of processes of this machine that ended without removing them."""
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError), path.open() as stream:
            if stream.read() == socket.gethostname() and _unlocked(path, stream.fileno()):
                yield path.name.partition(".")[0], path


def forget(folder: Path, run_id: str) -> None:
    """Remove the heartbeats of a run whose processes are lost."""
    for path in _files(folder, run_id):
        path.unlink(missing_ok=True)


class Watch:
    """Looks repeatedly at the heartbeats of runs.

    The clocks of machines differ, so what counts is for how long the time of a file has not changed.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._seen: dict[Path, tuple[int, float]] = {}

    def lost(self, run_id: str) -> str | None:
        """Return what happened to a process of a run that is gone; None if all live, or none has a heartbeat."""
        for path in _files(self._folder, run_id):
            with contextlib.suppress(FileNotFoundError), path.open() as stream:
                host, here = stream.read(), socket.gethostname()
                silent = self._seconds_unchanged(path, os.fstat(stream.fileno()).st_mtime_ns)
                if host == here and silent > SECONDS_TO_REPORT and _unlocked(path, stream.fileno()):
                    return f"a process of the run on {host} ended without a result: it was killed, or {host} restarted"
                if host != here and silent > SECONDS_UNTIL_LOST:
                    return f"a process of the run on {host} sent no heartbeat for {silent:.0f} s"
        return None

    def exists(self, run_id: str) -> bool:
        """Whether a run has a heartbeat."""
        return any(True for _ in _files(self._folder, run_id))

    def _seconds_unchanged(self, path: Path, found: int) -> float:
        now = self._clock()
        before, since = self._seen.get(path, (None, now))
        if found != before:
            since = now
        self._seen[path] = (found, since)
        return now - since


def _files(folder: Path, run_id: str = "") -> Iterator[Path]:
    """The heartbeats of a run, or of all."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(folder)  # noqa: PTH208 - for each run at each look
        yield from (folder / name for name in names if name.startswith(run_id) and not name.startswith(_NEW))


def _unlocked(path: Path, descriptor: int) -> bool:
    """Whether the process of a heartbeat is gone, and did not remove it as it ended."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return path.exists()
