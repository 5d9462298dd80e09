"""Jobs as a node runs them, in processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mist_ops.jobs.folder import JobFolder, Message, Reader, Work, Writer, study_as_json
from mist_ops.study import Study


def test_half_a_message_is_read_when_it_is_whole_and_damage_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    writer, reader = Writer(path), Reader(path)
    writer.send("case", id="a")
    with path.open("a") as stream:
        stream.write('{"kind": "ca')
    assert [message["id"] for message in reader.new()] == ["a"]
    assert list(reader.new()) == []
    Writer(path).send("case", id="b")  # after the job was killed while it wrote
    assert [message["id"] for message in reader.new()] == ["b"]


def run(folder: JobFolder, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mist_ops.jobs", str(folder.path)]
    return subprocess.Popen(command, env={**os.environ, **environment})


def messages(folder: JobFolder, task: int = 0) -> list[Message]:
    return list(Reader(folder.messages(task)).new())


def test_an_error_of_a_job_is_among_its_messages(tmp_path: Path) -> None:
    study = Study("study", tmp_path / "numpy", tmp_path / "results")
    folder = JobFolder(tmp_path / "job")
    folder.write(Work(stage="preprocess", study=study_as_json(study), chunks=(("a",),)))
    assert run(folder).wait() == 1
    assert [message["kind"] for message in messages(folder)] == ["start", "error"]


def test_a_job_loads_no_dagster(tmp_path: Path) -> None:
    code = "import sys, mist_ops.jobs.__main__, mist_ops.jobs.training, mist_ops.jobs.patients; print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "mist_ops.jobs.training" in loaded
    assert "'dagster" not in loaded
    assert "sqlite" not in loaded
