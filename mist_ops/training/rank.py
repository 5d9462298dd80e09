"""``python -m mist_ops.training.rank``: one of several processes that train a fold together.

Started by ``mist_ops.training.launcher`` alone, with the file that says what to do. That the standard input closes says
that the caller is gone. What there is to tell goes, a line of JSON each, to the standard output.
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
from mist_ops.training.distributed import join, tell
from mist_ops.training.fold import Plan, train_rank
from mist_ops.types import Json

_TRACE = 3000
"""Characters."""


def main() -> int:
    """Train as one of several; the status is 0 if all went well."""
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow, args=[sys.stdin], daemon=True).start()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as messages:
        # What libraries print is no message of ours.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            plan = Path(sys.argv[1])
            _train(json.loads(plan.read_text(encoding="utf-8")), plan.with_name("ranks"), messages)
        except MistError as error:
            tell(messages, "error", to_json(error))
            return 1
        except Exception as error:
            trouble = machine_error(error)
            if trouble:
                tell(messages, "error", to_json(trouble))
                return 1
            # What fits into a pipe at once cannot be torn by what the others write.
            tell(messages, "trace", traceback.format_exc()[-_TRACE:])
            return 1
    return 0


def _train(job: Json, meeting: Path, messages: TextIO) -> None:
    plan = Plan.from_json(job)
    device = torch.device(job["devices"][int(os.environ["LOCAL_RANK"])])
    ranks = join(device, meeting, plan.config.training.hardware.communication_backend)
    if ranks.rank == 0:
        logging.getLogger("mist_ops").addHandler(_Telling(messages))
        logging.getLogger("mist_ops").setLevel(logging.INFO)
    for epoch in train_rank(plan, device, ranks):
        if ranks.rank == 0:
            tell(messages, "epoch", asdict(epoch))
    torch.distributed.destroy_process_group()


class _Telling(logging.Handler):
    """Passes what is logged on to the caller."""

    def __init__(self, messages: TextIO) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        tell(self._messages, "log", [record.name, record.levelno, record.getMessage()])


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _follow(caller: TextIO) -> None:
    """Wait until the caller is gone, then end this process and those that read patches for it."""
    caller.read()
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
