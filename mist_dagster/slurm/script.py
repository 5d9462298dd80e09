"""Batch scripts."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from mist_dagster.slurm.settings import Request, SlurmSettings
from mist_ops.jobs.folder import JobFolder
from mist_ops.jobs.leaving import GRACE, UNFINISHED

_BODY = """\
# Settings of mist_slurm.yaml: setup
{setup}
export {grace}={seconds}{path}
# A warning that comes before the program handles it would end it.
trap '' USR1
messages={folder}/messages-${{SLURM_ARRAY_TASK_ID:-0}}.jsonl
{program} -m mist_ops.jobs {folder} &
child=$!
# Slurm warns this script of the time limit (USR1) and ends it (TERM); the program must hear of both.
trap 'kill -USR1 "$child" 2>/dev/null' USR1
trap 'kill -TERM "$child" 2>/dev/null' TERM
wait "$child"
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"
status=$?
printf '{{"kind": "exit", "status": %d}}\\n' "$status" >> "$messages"
if [ "$status" -eq {unfinished} ]; then
  # To be continued: requeued, or by a job of its own where the cluster forbids requeueing.
  scontrol requeue "$SLURM_JOB_ID" && {{ sleep 60; exit 0; }}
  next=$(sbatch --parsable ${{SLURM_ARRAY_TASK_ID:+--array=$SLURM_ARRAY_TASK_ID}} {script}) &&
    echo "${{next%%;*}} ${{SLURM_ARRAY_TASK_ID:-0}}" >> {chained}
fi
exit "$status"
"""


def job_name(run_id: str, stage: str) -> str:
    """Name of the jobs of a stage of a run, by which they are found if their number was not recorded."""
    return f"mist-{run_id[:8]}-{stage}"


def render(folder: JobFolder, settings: SlurmSettings, stage: str, name: str, tasks: int | None = None) -> str:
    """Return the script of a job.

    Args:
        folder: Its folder.
        settings: The settings.
        stage: The stage.
        name: Name of the job.
        tasks: Number of tasks of a job array; None for one job.
    """
    request = settings.request(stage)
    packages = Path(__file__).parents[2]
    # A checkout is found by its path. In a container, an installed package belongs to another Python.
    path = (
        ""
        if packages.name == "site-packages"
        else f" PYTHONPATH={shlex.quote(str(packages))}${{PYTHONPATH:+:$PYTHONPATH}}"
    )
    options = "".join(f"#SBATCH {option}\n" for option in _options(folder, settings, request, name, tasks))
    program = f"{request.prefix} {shlex.quote(settings.python or sys.executable)}".strip()
    body = _BODY.format(
        setup=(request.setup or "").rstrip(),
        grace=GRACE,
        seconds=settings.warn_seconds,
        path=path,
        folder=shlex.quote(str(folder.path)),
        program=program,
        unfinished=UNFINISHED,
        script=shlex.quote(str(folder.script)),
        chained=shlex.quote(str(folder.chained)),
    )
    return f"#!/usr/bin/env bash\n{options}{body}"


def _options(
    folder: JobFolder, settings: SlurmSettings, request: Request, name: str, tasks: int | None
) -> Iterator[str]:
    values = {
        "job-name": name,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "time": request.time,
        "mem": request.memory,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": request.cpus,
        "signal": f"B:USR1@{settings.warn_seconds}",
        # Slurm replaces a percent sign, and splits at a space.
        "output": f'"{str(folder.path).replace("%", "%%")}/{"log-0.txt" if tasks is None else "log-%a.txt"}"',
        "open-mode": "append",
    }
    yield from (f"--{option}={value}" for option, value in values.items() if value is not None)
    yield "--requeue"
    if tasks is not None:
        yield f"--array=0-{tasks - 1}" + (f"%{request.most_tasks}" if request.most_tasks else "")
    if request.gpus and request.gpu_option:
        yield request.gpu_option.format(gpus=request.gpus)
    yield from request.options or ()
