"""``python -m mist_ops.training.rank``: one of several processes that train a fold together.

Started by ``distributed.train_together`` alone. A line of JSON on the standard input says what to do; that the input
closes says that the caller is gone. What there is to tell goes, a line of JSON each, to a pipe of the caller's.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TextIO

import torch

from mist_ops.errors import MistError
from mist_ops.training.distributed import join, telling
from mist_ops.training.fold import Plan, train_rank
from mist_ops.types import Json


def main() -> int:
    """Train as one of several; the status is 0 if all went well."""
    signal.signal(signal.SIGTERM, _leave)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_follow, args=[sys.stdin], daemon=True).start()
    os.set_inheritable(job["messages"], False)
    with os.fdopen(job["messages"], "w", encoding="utf-8") as messages:
        try:
            _train(job, messages)
        except MistError as error:
            _tell(messages, "error", telling(error))
            return 1
        except Exception:
            _tell(messages, "trace", traceback.format_exc())
            return 1
    return 0


def _train(job: Json, messages: TextIO) -> None:
    devices = [torch.device(name) for name in job["devices"]]
    torch.set_num_threads(job["threads"])
    plan = Plan.from_json(job)
    ranks = join(job["rank"], devices, Path(job["meeting"]), plan.config.training.hardware.communication_backend)
    if ranks.rank == 0:
        logging.getLogger("mist_ops").addHandler(_Telling(messages))
        logging.getLogger("mist_ops").setLevel(logging.INFO)
    for epoch in train_rank(plan, devices[ranks.rank], ranks):
        if ranks.rank == 0:
            _tell(messages, "epoch", asdict(epoch))
    torch.distributed.destroy_process_group()


def _tell(messages: TextIO, kind: str, content: object) -> None:
    messages.write(json.dumps([kind, content]) + "\n")
    messages.flush()


class _Telling(logging.Handler):
    """Passes what is logged on to the caller."""

    def __init__(self, messages: TextIO) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        _tell(self._messages, "log", [record.name, record.levelno, record.getMessage()])


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _follow(caller: TextIO) -> None:
    """Wait until the caller is gone, then end this process and those that read patches for it."""
    caller.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
