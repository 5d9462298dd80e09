"""Processes of the UI that end with the process that started them, even if it is killed."""

import ctypes
import functools
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process from the main thread; on Linux, the kernel terminates it when that thread ends."""
    before = _ends_with_parent() if sys.platform == "linux" else None
    return subprocess.Popen(command, preexec_fn=before, **options)  # noqa: PLW1509 - a single system call


def _ends_with_parent() -> "functools.partial[int]":
    # Loaded before the fork: afterwards, another thread may hold the lock of the loader.
    return functools.partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, int(signal.SIGTERM))
