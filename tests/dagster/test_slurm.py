"""Settings, scripts and states of Slurm jobs, with recorded output of Slurm's commands; no Slurm is needed."""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import pytest
from expect import refuses

from mist_dagster.runtime.slurm import remove_files
from mist_dagster.slurm import commands, job, words
from mist_dagster.slurm.job import CanceledError, Job, Report
from mist_dagster.slurm.queue import Queue, State, parse
from mist_dagster.slurm.script import render
from mist_dagster.slurm.settings import SlurmSettings, find, read, seconds_of
from mist_ops.errors import CaseError, ConfigError, MistError, from_json
from mist_ops.jobs.folder import JobFolder, Work, Writer
from mist_ops.jobs.leaving import UNFINISHED
from mist_ops.study import Study

SQUEUE = f"""\
2_1|{words.CANCELED}|None|n1|2026-11-28T17:30:52|0:44|a.sh
3|FAILED|BadConstraints||2026-11-28T17:30:52|1:00|a.sh
1|PENDING|BeginTime||2026-11-28T17:33:18|1:00|a.sh
4|PENDING|JobHeldUser||N/A|1:00|a.sh
2_0|COMPLETING|None|n1|2026-11-28T17:30:52|0:30|a.sh
2_2|RUNNING|None|n2|2026-11-28T17:30:52|0:30|mist-1|x
"""
"""Of Slurm 22.05."""

SETTINGS = SlurmSettings(executor="slurm")


def test_the_queue_is_read_task_by_task() -> None:
    states = parse(SQUEUE)
    assert set(states) == {"2_1", "3", "1", "4", "2_0", "2_2"}
    assert states["1"] == State("PENDING", "BeginTime", "", "2026-11-28T17:33:18", "1:00", "a.sh")
    assert states["4"].start == ""
    assert states["2_2"].name == "mist-1|x"
    assert [number for number, state in states.items() if state.ended] == ["2_1", "3"]


def test_states_are_described_in_words() -> None:
    states = parse(SQUEUE)
    assert words.describe([states["1"]]).startswith("pending: its start time has not come")
    assert words.describe([states["1"]]).endswith("start expected 2026-11-28 17:33:18")
    assert "scontrol release" in words.describe([states["4"]])
    both = words.describe([states["2_0"], states["2_1"], states["2_2"]])
    assert both == "2 of 3 tasks running on n1, n2"
    assert words.describe([states["3"]]) == ""
    assert "limit of your account" in words.waiting(State("PENDING", "QOSMaxGRESPerUser"))


@pytest.mark.parametrize(
    "state, status, code, again",
    [
        (State("OUT_OF_MEMORY", "OutOfMemory"), 137, "slurm-out-of-memory", False),
        (State("TIMEOUT", "TimeLimit"), None, "slurm-time-limit", True),
        (State("NODE_FAIL"), None, "slurm-node-failed", True),
        (State("PREEMPTED"), None, "slurm-preempted", True),
        (State("FAILED", "NonZeroExitCode"), 137, "slurm-process-killed", False),
        (State("FAILED", "NonZeroExitCode"), 127, "slurm-job-failed", False),
        (State("FAILED", "BadConstraints"), None, "slurm-job-failed", False),
        (None, None, "slurm-job-lost", True),
        (None, 1, "slurm-job-failed", False),
    ],
)
def test_each_end_has_a_code_and_is_repeated_where_that_helps(
    state: State | None, status: int | None, code: str, again: bool
) -> None:
    end = words.end_of(state, status)
    assert (end.code, end.again) == (code, again)


@pytest.mark.parametrize(
    "answer, field",
    [
        (
            "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: …",
            "partition",
        ),
        ("sbatch: error: Memory specification can not be satisfied", "memory"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", "cpus"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", "account"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid", "time"),
    ],
)
def test_a_rejection_names_the_setting(answer: str, field: str) -> None:
    error = commands.rejected("sbatch", answer)
    assert error.code == "slurm-rejected"
    assert field in str(error.field)


@pytest.mark.parametrize(
    "text, seconds",
    [("30", 1800), ("30:15", 1815), ("12:00:00", 43200), ("1-00:00:00", 86400), ("2-12", 216000), ("1-02:30", 95400)],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_times_of_the_file_stay_text(tmp_path: Path) -> None:
    """YAML 1.1 reads 12:00:00 as 43200."""
    (tmp_path / "mist_slurm.yaml").write_text("executor: slurm\nall:\n  time: 12:00:00\n  account:\n  cpus: 8\n")
    found = read(tmp_path / "mist_slurm.yaml")
    assert found.request("train").time == "12:00:00"
    assert found.request("train").cpus == 8
    assert found.request("train").account is None


def test_a_stage_inherits_what_it_does_not_set(tmp_path: Path) -> None:
    (tmp_path / "mist_slurm.yaml").write_text(
        "executor: slurm\nall: {partition: main, memory: 8G}\nstages: {train: {memory: 64G, gpus: 4}}\n"
    )
    found = read(tmp_path / "mist_slurm.yaml")
    train, scores = found.request("train"), found.request("evaluate")
    assert (train.partition, train.memory, train.gpus) == ("main", "64G", 4)
    assert (scores.partition, scores.memory, scores.gpus) == ("main", "8G", 0)


@pytest.mark.parametrize(
    "text, says",
    [
        ("executor: cluster", "executor"),
        ("executor: slurm\nall: {partitions: gpu}", "partitions"),
        ("executor: slurm\npoll_seconds: 1", "poll_seconds"),
        ("executor: slurm\nall: {time: soon}", "time"),
        ("executor: slurm\nall: {time: 1}", "warn_seconds"),
        ('executor: slurm\nall: {partition: "a\\nb"}', "partition"),
        ("executor: slurm\nall: {gpu_option: '--gres=gpu:{number}'}", "gpu_option"),
        ("[", "mist_slurm.yaml"),
    ],
)
def test_mistakes_in_the_settings_are_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mist_slurm.yaml").write_text(text)
    with refuses("slurm-settings-invalid", ConfigError, names=says):
        read(tmp_path / "mist_slurm.yaml")


def test_the_settings_of_a_study_come_before_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("study", tmp_path / "numpy", tmp_path)
    replica = study.replica(7)
    replica.results.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert find(study) is None
    (tmp_path / "config" / "mist").mkdir(parents=True)
    (tmp_path / "config" / "mist" / "mist_slurm.yaml").write_text("executor: slurm")
    assert find(study) is not None
    (tmp_path / "mist_slurm.yaml").write_text("executor: local")
    assert find(study) is None
    assert find(replica) is None
    (replica.results / "mist_slurm.yaml").write_text("executor: slurm")
    assert find(replica) is not None


def test_the_script_asks_for_what_the_settings_say_and_is_valid(tmp_path: Path) -> None:
    settings = SlurmSettings.model_validate(
        {
            "executor": "slurm",
            "all": {"partition": "gpu", "setup": "module load cuda", "prefix": "apptainer exec --nv image.sif"},
            "stages": {"train": {"gpus": 4, "gpu_option": "--gres=gpu:a100:{gpus}", "options": ["--exclusive"]}},
        }
    )
    text = render(JobFolder(tmp_path / "a folder"), settings, "train", "mist-1")
    options = re.findall(r"#SBATCH (.*)", text)
    assert {"--partition=gpu", "--gres=gpu:a100:4", "--exclusive", "--requeue", "--signal=B:USR1@120"} <= {*options}
    assert not any(option.startswith(("--array", "--account")) for option in options)
    assert "module load cuda\n" in text
    assert "apptainer exec --nv image.sif " in text
    assert subprocess.run(["bash", "-n"], input=text.encode(), check=False).returncode == 0
    array = render(JobFolder(tmp_path), settings, "preprocess", "mist-1", tasks=8)
    assert "#SBATCH --array=0-7\n" in array
    assert "gres" not in array


def test_one_call_of_squeue_serves_all_processes(tmp_path: Path) -> None:
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return SQUEUE

    queues = [Queue(tmp_path / "slurm" / "queue.json", 60, ask) for _ in range(20)]
    assert all(queue.look()[1] == parse(SQUEUE) for queue in queues)
    assert len(asked) == 1
    Queue(tmp_path / "slurm" / "queue.json", 0, ask).look()
    assert len(asked) == 2


class Cluster:
    """Answers for ``sbatch``, ``scancel`` and ``squeue``, so that rare ends can be tested."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.submitted: list[str | None] = []
        self.canceled: list[str] = []
        self.states: dict[str, str] = {}
        self.said: list[str] = []
        self.folder = folder
        monkeypatch.setattr(commands, "submit", self._submit)
        monkeypatch.setattr(commands, "cancel", self.canceled.extend)
        monkeypatch.setattr(commands, "accounted", lambda number: {})
        monkeypatch.setattr(job, "_SECONDS_BETWEEN_LOOKS", 0.01)
        for pause in ("_SECONDS_TO_REPORT", "_SECONDS_TO_CHAIN", "_SECONDS_TO_APPEAR"):
            monkeypatch.setattr(job, pause, 0.0)

    def _submit(self, script: str, array: str | None = None) -> str:
        self.submitted.append(array)
        return str(100 + len(self.submitted))

    def job(self, **settings: int) -> Job:
        chosen = SlurmSettings.model_validate({"executor": "slurm", **settings})
        queue = Queue(self.folder / "queue.json", 0, self._queue)
        return Job(self.folder / "job", "a-run", chosen, queue, Report(self.said.append, lambda numbers, state: None))

    def _queue(self) -> str:
        return "\n".join(f"{number}|{state}|None|n1|N/A|1:00|mist-a-run-train" for number, state in self.states.items())

    def writer(self, task: int = 0) -> Writer:
        return Writer(JobFolder(self.folder / "job").messages(task))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path, monkeypatch)


def work(*chunks: Sequence[str]) -> Work:
    where = {"name": "study", "numpy": "/numpy", "results": "/results", "data": None}
    return Work(stage="preprocess" if chunks else "train", study=where, chunks=tuple(map(tuple, chunks)))


def test_messages_of_all_tasks_are_followed_to_their_end(cluster: Cluster) -> None:
    followed = cluster.job()
    followed.start(work(["a", "b"], ["c"]))
    for task, ids in enumerate((["a", "b"], ["c"])):
        cluster.states[f"101_{task}"] = "COMPLETED"
        for case_id in ids:
            cluster.writer(task).send("case", id=case_id, result=float("nan"))
        cluster.writer(task).send("end")
    assert [(task, message["id"]) for task, message in followed.follow()] == [(0, "a"), (0, "b"), (1, "c")]
    assert cluster.submitted == [None]


def test_the_next_process_of_a_run_follows_the_job_that_the_first_submitted(cluster: Cluster) -> None:
    cluster.job().start(work())
    again = cluster.job()
    again.start(work())
    assert again.numbers == ["101"]
    assert len(cluster.submitted) == 1
    (cluster.folder / "job" / "job.json").unlink()  # killed before it was written
    cluster.states["101"] = "RUNNING"
    found = cluster.job()
    found.start(work())
    assert found.numbers == ["101"]
    assert len(cluster.submitted) == 1


def test_a_patient_that_ends_its_task_is_given_up_and_the_others_are_not(cluster: Cluster) -> None:
    followed = cluster.job()
    followed.start(work(["a", "killer", "c"]))
    cluster.writer().send("start", node="n1")
    cluster.writer().send("case", id="a", result="1")
    cluster.states["101_0"] = "OUT_OF_MEMORY"
    messages = followed.follow()
    assert next(messages)[1]["id"] == "a"
    _, killer = next(messages)
    error = from_json(killer["error"])
    assert isinstance(error, CaseError)
    assert (error.case, error.code) == ("killer", "slurm-out-of-memory")
    assert cluster.submitted == [None, "0"]
    cluster.states["102_0"] = "COMPLETED"
    cluster.writer().send("case", id="c", result="2")
    cluster.writer().send("end")
    assert [message["id"] for _, message in messages] == ["c"]


def test_a_task_whose_patients_all_end_it_gives_up(cluster: Cluster) -> None:
    followed = cluster.job()
    followed.start(work(["a", "b", "c", "d", "e", "f"]))
    for number in range(101, 110):
        cluster.states[f"{number}_0"] = "OUT_OF_MEMORY"
    found = [message for _, message in followed.follow()]
    assert [message["id"] for message in found] == ["a", "b", "c", "d", "e", "f"]
    assert all("error" in message for message in found)
    assert len(cluster.submitted) == 4


def test_a_canceled_job_is_not_submitted_again(cluster: Cluster) -> None:
    followed = cluster.job()
    followed.start(work())
    cluster.states["101"] = words.CANCELED
    with pytest.raises(CanceledError):
        list(followed.follow())
    assert len(cluster.submitted) == 1


def test_a_training_on_a_node_that_failed_is_submitted_again_but_not_for_ever(cluster: Cluster) -> None:
    followed = cluster.job(resubmissions=2)
    followed.start(work())
    for number in range(101, 110):
        cluster.states[str(number)] = "NODE_FAIL"
    with pytest.raises(MistError) as caught:
        list(followed.follow())
    assert caught.value.code == "slurm-node-failed"
    assert len(cluster.submitted) == 3


def test_an_error_of_a_job_comes_with_the_end_of_its_log(cluster: Cluster) -> None:
    followed = cluster.job()
    followed.start(work())
    (cluster.folder / "job" / "log-0.txt").write_text("line 1\nmodule: command not found\n")
    cluster.states["101"] = "FAILED"
    cluster.writer().send("exit", status=127)
    with pytest.raises(MistError) as caught:
        list(followed.follow())
    assert caught.value.code == "slurm-job-failed"
    assert "module: command not found" in caught.value.message


def test_a_job_that_continues_another_is_followed(cluster: Cluster) -> None:
    """Where the cluster forbids requeueing, the script submits the next job and notes its number."""
    followed = cluster.job()
    followed.start(work())
    cluster.writer().send("leave")
    cluster.states["101"] = "FAILED"
    (cluster.folder / "job" / "chained").write_text("777 0\n")
    cluster.states["777"] = "COMPLETED"
    cluster.writer().send("epoch", index=0)
    cluster.writer().send("end")
    assert len(list(followed.follow())) == 1
    followed.cancel()
    assert cluster.canceled == ["101", "777"]


def test_jobs_that_continue_another_do_not_count_as_resubmissions(cluster: Cluster) -> None:
    followed = cluster.job(resubmissions=1)
    followed.start(work())
    chained = [f"{number} 0" for number in range(201, 206)]
    (cluster.folder / "job" / "chained").write_text("\n".join(chained) + "\n")
    cluster.states |= {"101": "FAILED", "205": "NODE_FAIL", "102": "NODE_FAIL"}
    with pytest.raises(MistError) as caught:
        list(followed.follow())
    assert caught.value.code == "slurm-node-failed"
    assert followed.numbers == ["101", "201", "202", "203", "204", "205", "102"]


def test_an_unfinished_job_that_the_cluster_did_not_continue_is_no_failure(cluster: Cluster) -> None:
    followed = cluster.job(resubmissions=0)
    followed.start(work())
    cluster.writer().send("leave")
    cluster.writer().send("exit", status=UNFINISHED)
    cluster.states |= {"101": "FAILED", "102": "FAILED"}
    with pytest.raises(MistError) as caught:
        list(followed.follow())
    assert followed.numbers == ["101", "102"]
    assert caught.value.code == "slurm-job-failed"


def test_files_of_failed_jobs_are_removed_once_a_run_succeeds_at_the_same_or_after_a_month(tmp_path: Path) -> None:
    study = Study("study", tmp_path / "numpy", tmp_path)
    records = dg.DagsterInstance.ephemeral()

    @dg.job
    def nothing() -> None:
        pass

    def run(fold: int, status: dg.DagsterRunStatus, days: int = 0) -> str:
        tags = {"mist/stage": "train", "dagster/partition": f"fold_{fold}"}
        run_id = records.create_run_for_job(nothing, status=status, tags=tags).run_id
        study.job(run_id).mkdir(parents=True)
        (study.job(run_id) / "head.txt").write_text("a log")
        for path in (study.job(run_id) / "head.txt", study.job(run_id)):
            os.utime(path, (time.time() - 86400 * days,) * 2)
        return run_id

    failed, other = run(0, dg.DagsterRunStatus.FAILURE), run(1, dg.DagsterRunStatus.FAILURE)
    old, active = run(1, dg.DagsterRunStatus.CANCELED, 31), run(0, dg.DagsterRunStatus.STARTED, 31)
    succeeded = run(0, dg.DagsterRunStatus.STARTED)
    remove_files(records, study, succeeded)
    assert not any(study.job(run_id).exists() for run_id in (failed, old, succeeded))
    assert all(study.job(run_id).exists() for run_id in (other, active))
