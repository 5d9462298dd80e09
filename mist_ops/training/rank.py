"""``python -m mist_ops.training.rank``: one of several processes that train a fold together.

Started by ``mist_ops.training.launcher`` with the file of the job. When standard input closes, the caller has ended.
Messages go to standard output, one line of JSON each.
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

from mist_ops.errors import MistError, machine_error, to_json
from mist_ops.training.distributed import join, send
from mist_ops.training.fold import train_rank
from mist_ops.training.plan import Plan
from mist_ops.types import Json

_TRACE = 3000
"""Characters."""


def main() -> int:
    """Train as one of several processes; return 0 if it succeeded."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow, args=[sys.stdin], daemon=True).start()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as messages:
        # So that prints of libraries are not taken for messages.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            plan = Path(sys.argv[1])
            _train(json.loads(plan.read_text(encoding="utf-8")), plan.with_name("ranks"), messages)
        except MistError as error:
            send(messages, "error", to_json(error))
            return 1
        except Exception as error:
            known = machine_error(error)
            if known:
                send(messages, "error", to_json(known))
                return 1
            # Short enough to be written to the pipe at once, so that others do not write into it.
            send(messages, "trace", traceback.format_exc()[-_TRACE:])
            return 1
    return 0


def _train(job: Json, meeting: Path, messages: TextIO) -> None:
    plan = Plan.from_json(job)
    device = torch.device(job["devices"][int(os.environ["LOCAL_RANK"])])
    ranks = join(device, meeting, plan.config.training.hardware.communication_backend)
    if ranks.rank == 0:
        logging.getLogger("mist_ops").addHandler(_LogSender(messages))
        logging.getLogger("mist_ops").setLevel(logging.INFO)
    for epoch in train_rank(plan, device, ranks):
        if ranks.rank == 0:
            send(messages, "epoch", asdict(epoch))
    torch.distributed.destroy_process_group()


class _LogSender(logging.Handler):
    """Sends log records to the caller."""

    def __init__(self, messages: TextIO) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        send(self._messages, "log", [record.name, record.levelno, record.getMessage()])


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _follow(caller: TextIO) -> None:
    """Wait until the caller has ended, then end this process and its workers."""
    caller.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
