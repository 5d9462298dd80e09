"""What Slurm's states and reasons mean, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mist_dagster.slurm.queue import WAITING, State

_WAITING: Mapping[str, str] = {
    "Priority": "other jobs have a higher priority",
    "Resources": "no node is free",
    "BeginTime": "its start time has not come; after a requeue, that takes about two minutes",
    "Dependency": "another job must end first",
    "JobHeldUser": "held by you; release it with scontrol release",
    "JobHeldAdmin": "held by the administrators of the cluster; ask them",
    "ReqNodeNotAvail": "its nodes are down or reserved, perhaps for maintenance",
    "Reservation": "its reservation has not begun",
    "PartitionTimeLimit": "its time is longer than the partition allows; lower time in mist_slurm.yaml",
    "PartitionNodeLimit": "it requests more nodes than the partition allows",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs to run now",
    "InvalidAccount": "its account is invalid; correct account in mist_slurm.yaml and terminate the run",
    "InvalidQOS": "its qos is invalid; correct qos in mist_slurm.yaml and terminate the run",
    "Licenses": "it waits for a license",
    "JobArrayTaskLimit": "as many tasks run as most_tasks allows",
    "launch failed requeued held": "its node could not start it; release it with scontrol release",
}


@dataclass(frozen=True)
class End:
    """How a job ended that did not report an end.

    Attributes:
        code: Code of the error.
        what: What happened.
        remedy: What to do.
        again: Whether to submit it again.
    """

    code: str
    what: str
    remedy: str = ""
    again: bool = False


_ENDS: Mapping[str, End] = {
    "OUT_OF_MEMORY": End(
        "slurm-out-of-memory", "it used more main memory than requested", "Raise memory in mist_slurm.yaml."
    ),
    "TIMEOUT": End("slurm-time-limit", "it reached its time limit", "Raise time in mist_slurm.yaml.", again=True),
    "NODE_FAIL": End("slurm-node-failed", "its node failed", "Re-execute the run.", again=True),
    "BOOT_FAIL": End("slurm-node-failed", "its node did not start", "Re-execute the run.", again=True),
    "PREEMPTED": End("slurm-preempted", "a job of higher priority displaced it", "Re-execute the run.", again=True),
    "DEADLINE": End("slurm-deadline", "it could not be done before its deadline", "Remove the option deadline."),
    "REVOKED": End("slurm-revoked", "another cluster took it", "Re-execute the run."),
}

_KILLED = End(
    "slurm-process-killed",
    "its process was killed, probably because memory ran out",
    "Raise memory in mist_slurm.yaml.",
)
_FAILED = End("slurm-job-failed", "it ended without a result", "The end of its log may say why.")
_UNKNOWN = End("slurm-job-lost", "Slurm no longer knows it, and it reported no end", "Re-execute the run.", again=True)

CANCELED = "CANCELLED"  # codespell:ignore
_SIGKILL = 137


def waiting(state: State) -> str:
    """Why a job waits, in words."""
    name = state.reason.strip("()").partition(",")[0]
    if name in _WAITING:
        return _WAITING[name]
    if name.startswith(("QOS", "Assoc", "MaxCpuPer", "MaxGRESPer", "MaxJobs", "MaxMem")):
        return f"a limit of your account or quality of service is reached ({name})"
    return state.reason or "not considered yet"


def time_left(states: Sequence[State]) -> str:
    """The time until the limit of the first running task to reach it, as Slurm writes it; empty if none runs."""
    return min((state.left for state in states if state.state == "RUNNING" and state.left), default="")


def describe(states: Sequence[State]) -> str:
    """What the tasks of a job do, in a phrase."""
    active = [state for state in states if not state.ended]
    pending = [state for state in active if state.state in WAITING]
    running = [state for state in active if state.state not in WAITING]
    parts = []
    if running:
        nodes = ", ".join(sorted({state.nodes for state in running if state.nodes}))
        count = f"{len(running)} of {len(states)} tasks " if len(states) > 1 else ""
        parts.append(f"{count}running on {nodes or 'a node'}")
    if pending:
        starts = min((state.start for state in pending if state.start), default="")
        count = f"{len(pending)} of {len(states)} tasks " if len(states) > 1 else ""
        expected = f", start expected {starts.replace('T', ' ')}" if starts else ""
        parts.append(f"{count}pending: {waiting(pending[0])}{expected}")
    return "; ".join(parts)


def end_of(state: State | None, exit_status: int | None) -> End:
    """How a task ended that did not report an end.

    Args:
        state: Its last state; None if Slurm no longer knows it.
        exit_status: Exit status of its program, if its script reported it.
    """
    if state and state.state in _ENDS:
        return _ENDS[state.state]
    if exit_status == _SIGKILL:
        return _KILLED
    if state and state.state == "FAILED" and state.reason and state.reason != "NonZeroExitCode":
        return End("slurm-job-failed", f"Slurm ended it ({state.reason})", "Check the request in mist_slurm.yaml.")
    return _UNKNOWN if state is None and exit_status is None else _FAILED
