"""Slurm's commands."""

import os
import re
import subprocess
import time
from collections.abc import Sequence

from mist_ops.errors import MistError

_SECONDS = 60
_TRIES = 4
_BUSY = (
    "unable to contact slurm controller",
    "socket timed out",
    "resource temporarily unavailable",
    "unable to accept",
)
"""Parts of the messages of a controller that is busy or restarts."""

FORMAT = "%i|%T|%r|%N|%S|%L|%j"
"""Fields of squeue: id, state, reason, nodes, (expected) start, time left, name."""


class SlurmError(MistError):
    """Slurm does not do what is asked."""


def submit(script: str, array: str | None = None) -> str:
    """Submit a batch script; return the number of the job.

    Raises:
        SlurmError: Slurm rejects it, or cannot be reached.
    """
    options = [f"--array={array}"] if array else []
    answer = _run(["sbatch", "--parsable", *options, script])
    return answer.strip().splitlines()[-1].partition(";")[0]  # number;cluster


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; those that ended are left alone."""
    if jobs:
        _run(["scancel", "--quiet", *jobs])


def queue() -> str:
    """All jobs of this user, tasks one by one, with those that ended in the last minutes."""
    user = str(os.getuid())
    return _run(["squeue", "--noheader", "--array", "--states=all", f"--user={user}", f"--format={FORMAT}"])


def accounted(job: str) -> dict[str, str]:
    """The states of the tasks of a job that the queue has forgotten, from accounting; empty if there is none."""
    try:
        answer = _run(["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={job}"])
    except SlurmError:
        return {}
    rows = (line.split("|") for line in answer.splitlines() if "|" in line)
    return {row[0]: row[1].split()[0] for row in rows if row[1]}


def _run(command: Sequence[str]) -> str:
    for attempt in range(_TRIES):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except FileNotFoundError as error:
            raise SlurmError(
                f"The command {command[0]} is not on this machine. Start mist_ui on a login node of the cluster.",
                code="slurm-missing",
                found=command[0],
            ) from error
        except subprocess.TimeoutExpired:
            answer = f"no answer within {_SECONDS} s"
        else:
            if done.returncode == 0:
                return done.stdout
            answer = done.stderr.strip()
            if not any(part in answer.lower() for part in _BUSY):
                raise rejected(command[0], answer)
        if attempt < _TRIES - 1:
            time.sleep(5 * (attempt + 1))
    raise SlurmError(
        f"Slurm's controller does not answer {command[0]}: {answer}. Try again later.",
        code="slurm-unreachable",
        found=answer,
    )


_REJECTED = (
    ("invalid account", "the account may not use this partition", "account and partition"),
    ("invalid partition", "the partition does not exist", "partition"),
    ("node configuration", "no node of the partition has what is requested", "cpus, memory and gpus"),
    ("memory specification", "no node of the partition has that much memory", "memory"),
    ("time limit", "the partition does not allow that time", "time"),
    ("invalid qos", "the quality of service does not exist or is not yours", "qos"),
    ("qos", "a limit of the quality of service is exceeded", "qos, gpus and time"),
    ("accounting/qos", "a limit of your account is exceeded", "account, gpus and time"),
    ("generic resource", "the cluster has no such GPUs", "gpus and gpu_option"),
    ("gres", "the cluster has no such GPUs", "gpus and gpu_option"),
)
"""A part of Slurm's message, what it means, and the settings to look at."""


def rejected(command: str, answer: str) -> SlurmError:
    """Explain why Slurm rejected a command."""
    lines = [re.sub(r"^\w+: (error: )?", "", line) for line in answer.splitlines() if line.strip()]
    said = "; ".join(lines) or "no message"
    if command != "sbatch":
        return SlurmError(f"{command} failed: {said}.", code="slurm-failed", found=said)
    for part, meaning, fields in _REJECTED:
        if part in answer.lower():
            return SlurmError(
                f"Slurm rejected the job: {meaning}. Check {fields} in mist_slurm.yaml. Slurm's message: {said}.",
                code="slurm-rejected",
                field=fields,
                found=said,
            )
    return SlurmError(
        f"Slurm rejected the job. Check mist_slurm.yaml. Slurm's message: {said}.", code="slurm-rejected", found=said
    )
