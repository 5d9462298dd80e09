"""``python -m mist_ops.training.launcher``: torchrun's agent for the processes that train a fold together.

Started by ``distributed.train_together``, with the job as a line of JSON on standard input. The agent starts
``mist_ops.training.rank`` once per device, and ends all processes if one fails or it gets a signal.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mist_ops.training.distributed import GRACE_SECONDS


def main() -> int:
    """Run the job; return 0 if it succeeded, and 128 plus its number if a signal ended a process."""
    job = json.loads(sys.stdin.readline())
    # All processes are on this machine and meet through files: a TCP store of torch listens on every interface, and the
    # agent unpickles its content.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    # Errors are reported once, by the caller.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="mist-") as folder:
        plan = Path(folder) / "job.json"
        plan.write_text(json.dumps(job), encoding="utf-8")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(job["devices"]),
            run_id="mist",
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder) / "agents"),
            rdzv_configs={"store_type": "file"},
            local_addr="localhost",
            # The caller resumes a fold that failed.
            max_restarts=0,
            shutdown_timeout=GRACE_SECONDS,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "mist_ops.training.rank", str(plan))
        except ChildFailedError as error:
            if any(failure.exitcode == -signal.SIGKILL for failure in error.failures.values()):
                return 128 + signal.SIGKILL
            return 1
        except SignalException as ending:
            return 128 + ending.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
