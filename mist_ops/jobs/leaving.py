"""Leaving a job before its time limit ends it: after the epoch or patient, or at once if that takes too long."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

UNFINISHED = 85
"""Exit status of a job that another allocation continues."""

GRACE = "MIST_JOB_GRACE"
"""Environment variable: seconds between the warning of the batch script and the time limit."""

_MARGIN = 20.0
"""Seconds to end processes and to requeue the job."""


class LeaveError(BaseException):
    """Another allocation continues the job."""


class EndedError(BaseException):
    """The job was ended by SIGTERM: canceled, preempted, or its node shuts down."""


class Leaving:
    """Whether the job was warned of its time limit.

    SIGUSR1 is the warning. After the grace period an exception ends the work, whatever it does.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self.warned = False
        self._ended = ended
        self._grace = float(os.environ.get(GRACE, "120"))
        signal.signal(signal.SIGUSR1, self._warn)
        signal.signal(signal.SIGALRM, self._leave)
        signal.signal(signal.SIGTERM, self._end)

    def check(self) -> None:
        """Leave if the job was warned; called where everything is on disk.

        Raises:
            LeaveError: The job was warned.
        """
        if self.warned:
            self.ignore()
            raise LeaveError

    def ignore(self) -> None:
        """Get no exceptions from signals any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _warn(self, number: int, frame: FrameType | None) -> None:
        if not self.warned:
            self.warned = True
            signal.setitimer(signal.ITIMER_REAL, max(1.0, self._grace - _MARGIN))

    def _leave(self, number: int, frame: FrameType | None) -> None:
        self.ignore()
        raise LeaveError

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.ignore()
        self._ended()
        raise EndedError
