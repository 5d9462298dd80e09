"""Progress of work: a bar on the terminal, or lines in a file and in the log of the run."""

import io
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar

Step = TypeVar("Step")

logger = logging.getLogger("mist")

LOGGERS = ("mist", "mist_ops")
"""The loggers of this program, whose messages are also in the log of the run."""


class Progress(Protocol):
    """Interface for assets to report progress, failures and notes."""

    def track(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None = None,
        detail: Callable[[Step], str] | None = None,
        initial: int = 0,
    ) -> Iterator[Step]:
        """Yield the steps and report how many are done.

        Args:
            steps: The steps.
            label: Name of the work.
            total: Number of steps, including those done earlier, if it is known.
            detail: Describes the last step.
            initial: Number of steps done earlier, which do not count for the rate and the remaining time.
        """
        ...

    def problem(self, message: str) -> None:
        """Report a failure that does not stop the rest."""
        ...

    def note(self, message: str) -> None:
        """Report information."""
        ...


class _Shown(logging.Handler):
    """Shows each message of the log once: several steps of a command may find that there is no GPU."""

    def __init__(self, show: Callable[[str, bool], None]) -> None:
        super().__init__(logging.INFO)
        self._show = show
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        message = record.getMessage()
        if message not in self._shown:
            self._shown.add(message)
            self._show(message, record.levelno >= logging.WARNING)


class LogProgress:
    """Lines in the log of a run at a limited rate, as the UI shows them."""

    def __init__(self, seconds_between: float = 10.0) -> None:
        self._seconds_between = seconds_between

    def track(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None = None,
        detail: Callable[[Step], str] | None = None,
        initial: int = 0,
    ) -> Iterator[Step]:
        """Yield the steps, and log a line every few seconds."""
        logged = time.monotonic()
        for done, step in enumerate(steps, start=initial + 1):
            if time.monotonic() - logged > self._seconds_between or done == total:
                logger.info("%s: %d%s %s", label, done, f" of {total}" if total else "", detail(step) if detail else "")
                logged = time.monotonic()
            yield step

    def problem(self, message: str) -> None:
        """Log an error."""
        logger.error("%s", message)

    def note(self, message: str) -> None:
        """Log information."""
        logger.info("%s", message)


class TerminalProgress:
    """A bar with the rate and the remaining time; messages, also those of the log, are printed above it.

    Where standard error is a file or a pipe, a line is printed at the end of the work and every ``seconds_between``,
    even if no step ends in that time.
    """

    def __init__(self, seconds_between: float = 60.0) -> None:
        from rich.console import Console  # only commands need it

        # Dagster redirects the standard streams of a run; a duplicate taken now still writes to the terminal.
        self._terminal = os.fdopen(os.dup(2), "w", buffering=1)
        self.console = Console(file=self._terminal, soft_wrap=True)
        self._seconds_between = seconds_between

    def __enter__(self) -> Self:
        self._handler = _Shown(self._message)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
            logging.getLogger(name).setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        self.console.file = io.StringIO()  # an unfinished bar prints once more when it is garbage-collected
        self._terminal.close()

    def track(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None = None,
        detail: Callable[[Step], str] | None = None,
        initial: int = 0,
    ) -> Iterator[Step]:
        """Yield the steps and advance the bar."""
        if not self.console.is_terminal:
            yield from self._lines(steps, label, total, detail, initial)
            return
        from rich import progress
        from rich.markup import escape

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=8),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            progress.TextColumn("{task.fields[detail]}"),
        )
        # The rate is that of all steps: epochs may take longer than the 30 s that rich averages over by default.
        with progress.Progress(*columns, console=self.console, speed_estimate_period=math.inf) as bars:
            bar = bars.add_task(escape(label), total=total, completed=initial, detail="", rate="")
            for done, step in enumerate(steps, start=initial + 1):
                bars.update(bar, completed=done, detail=escape(detail(step) if detail else ""))
                bars.update(bar, rate=rate(bars.tasks[0].speed))
                yield step
            bars.update(bar, total=bars.tasks[0].completed)

    def _lines(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None,
        detail: Callable[[Step], str] | None,
        initial: int,
    ) -> Iterator[Step]:
        """Yield the steps and print lines about them."""
        started, done, last = time.monotonic(), initial, ""

        def line() -> str:
            of = f" of {total}" if total else ""
            return f"{label}: {done}{of} after {time_of(time.monotonic() - started)}{last and f', {last}'}"

        with _every(self._seconds_between, lambda: self.note(line())):
            for step in steps:
                done, last = done + 1, detail(step) if detail else ""
                yield step
        total = done
        self.note(line())

    def problem(self, message: str) -> None:
        """Print a message in red."""
        self.console.print(message, style="red", markup=False, highlight=False)

    def _message(self, message: str, warns: bool) -> None:
        if warns:
            self.console.print(f"Warning: {message}", style="bold yellow", markup=False, highlight=False)
        else:
            self.note(message)

    def note(self, message: str) -> None:
        """Print a message."""
        self.console.print(message, markup=False, highlight=False)


@contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call a function every few seconds, in a thread, while the block runs."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def rate(speed: float | None) -> str:
    """Format a number of steps per second, or the time per step if it is longer than a second; empty if unknown."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{time_of(1 / speed)} each"


def time_of(seconds: float) -> str:
    """Format a duration in hours, minutes or seconds: ``1.3 h``, ``20.0 min``, ``45 s``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def shown(path: Path) -> Path:
    """Shorten a path for a message: relative to the working folder if it lies there."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
