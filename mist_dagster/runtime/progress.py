"""How far work has come, told to whoever watches: a bar on the terminal, or lines in the log of the run."""

import io
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Self, TypeVar

Step = TypeVar("Step")

logger = logging.getLogger("mist")


class Progress(Protocol):
    """What assets tell of their work."""

    def track(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None = None,
        detail: Callable[[Step], str] | None = None,
        begun: int = 0,
    ) -> Iterator[Step]:
        """Pass the steps on, counting them.

        Args:
            steps: What is passed on.
            label: What is done.
            total: Their number, with those that were done before, if it is known.
            detail: What is said of the last one.
            begun: How many were done before; the rate and the time left are those of the others.
        """
        ...

    def problem(self, sentence: str) -> None:
        """Tell of something that failed while the rest goes on."""
        ...

    def note(self, sentence: str) -> None:
        """Tell of something worth knowing."""
        ...


class LogProgress:
    """Lines in the log at a bounded rate: what the UI shows of a run that it launched."""

    def __init__(self, seconds_between: float = 10.0) -> None:
        self._seconds_between = seconds_between

    def track(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None = None,
        detail: Callable[[Step], str] | None = None,
        begun: int = 0,
    ) -> Iterator[Step]:
        """Pass the steps on, with a line every few seconds."""
        said = time.monotonic()
        for done, step in enumerate(steps, start=begun + 1):
            if time.monotonic() - said > self._seconds_between or done == total:
                logger.info("%s: %d%s %s", label, done, f" of {total}" if total else "", detail(step) if detail else "")
                said = time.monotonic()
            yield step

    def problem(self, sentence: str) -> None:
        """Log an error."""
        logger.error("%s", sentence)

    def note(self, sentence: str) -> None:
        """Log a line."""
        logger.info("%s", sentence)


class TerminalProgress:
    """A bar with the rate and the time left, and problems above it as they come."""

    def __init__(self) -> None:
        from rich.console import Console  # not at the top: only commands draw

        # A duplicate taken now still leads to the terminal when Dagster redirects the standard streams of a run.
        self._terminal = os.fdopen(os.dup(2), "w", buffering=1)
        self.console = Console(file=self._terminal, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.console.file = io.StringIO()  # a bar that was broken off says its last word when it is collected
        self._terminal.close()

    def track(
        self,
        steps: Iterable[Step],
        label: str,
        total: int | None = None,
        detail: Callable[[Step], str] | None = None,
        begun: int = 0,
    ) -> Iterator[Step]:
        """Pass the steps on, moving the bar."""
        from rich import progress
        from rich.markup import escape

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[detail]}"),
        )
        # Over all steps, as epochs may take longer than the half minute that rich looks back.
        with progress.Progress(*columns, console=self.console, speed_estimate_period=math.inf) as bars:
            bar = bars.add_task(escape(label), total=total, completed=begun, detail="", rate="")
            for done, step in enumerate(steps, start=begun + 1):
                bars.update(bar, completed=done, detail=escape(detail(step) if detail else ""))
                bars.update(bar, rate=rate(bars.tasks[0].speed))
                yield step
            bars.update(bar, total=bars.tasks[0].completed)

    def problem(self, sentence: str) -> None:
        """Print in red."""
        self.console.print(sentence, style="red", markup=False, highlight=False)

    def note(self, sentence: str) -> None:
        """Print as it is."""
        self.console.print(sentence, markup=False, highlight=False)


def rate(speed: float | None) -> str:
    """Steps per second, minute or hour, by whichever unit there is one at least; empty before two are done."""
    for seconds, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if speed and (speed * seconds >= 1 or unit == "h"):
            return f"{speed * seconds:.1f}/{unit}"
    return ""
