"""Several processes on the CPU, with gloo in the place of NCCL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expect import refuses
from training.small_study import FOLD, small_config, small_study

from mist_ops.config import StudyConfig
from mist_ops.errors import CaseError, ConfigError, DivergedError, MachineError, from_json, to_json
from mist_ops.files import write_array
from mist_ops.records.passport import Epoch
from mist_ops.registry import UnknownName
from mist_ops.study import Study
from mist_ops.training.distributed import Ranks
from mist_ops.training.fold import train_fold
from mist_ops.training.plan import Plan

CALLER = """
import json, sys
from pathlib import Path
from training.small_study import add_tiny, small_study
from training.test_distributed import children, endless

add_tiny()
run = endless(small_study(Path(sys.argv[1])))
next(run)
print(json.dumps(list(children())), flush=True)
list(run)
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register ``tiny`` in other processes too, through the entry point of a package."""
    package = tmp_path / "site" / "tiny-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[mist_ops.plugins]\ntiny = tiny_plugin\n")
    (package.parent / "tiny_plugin.py").write_text("from training.small_study import add_tiny\n\nadd_tiny()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), str(Path(__file__).parents[1])]))


def config(**training: Any) -> StudyConfig:
    """Without dropout, which processes draw differently, and in FP32."""
    plain = small_config(**{"amp": False, "epochs": 2, **training})
    params = {**plain.model.params.model_dump(), "dropout": 0.0}
    content = plain.model_dump(mode="json")
    return StudyConfig.model_validate({**content, "model": {"architecture": "tiny", "params": params}})


def trained(study: Study, processes: int, **options: Any) -> list[Epoch]:
    settings = config(batch_size_per_gpu=2 // processes)
    return list(train_fold(study, settings, FOLD, device="cpu", processes=processes, **options))


def assert_close(one: Study, other: Study) -> None:
    """Equal up to the order of sums."""
    first, second = (torch.load(study.checkpoint(0), weights_only=True) for study in (one, other))
    assert first.keys() == second.keys()
    assert first["step"] == second["step"]
    for name, weights in first["model"].items():
        torch.testing.assert_close(weights, second["model"][name], rtol=0.0, atol=1e-5)


def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    alone, together = (small_study(tmp_path / name) for name in ("alone", "together"))
    one, two = trained(alone, 1), trained(together, 2)
    for before, after in zip(one, two, strict=True):
        assert after.training_loss == pytest.approx(before.training_loss, abs=1e-5)
        assert after.validation_loss == pytest.approx(before.validation_loss, abs=1e-5)
    assert_close(alone, together)
    assert together.passport(0).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [(1, 2), (2, 1)])
def test_a_run_may_resume_with_more_or_fewer_processes(tmp_path: Path, first: int, second: int) -> None:
    whole, halves = (small_study(tmp_path / name) for name in ("whole", "halves"))
    trained(whole, 1)
    begun = config(batch_size_per_gpu=2 // first)
    run = train_fold(halves, begun, FOLD, device="cpu", processes=first)
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert [epoch.index for epoch in trained(halves, second, resume=True)] in ([1], [])
    assert_close(whole, halves)


def children() -> set[int]:
    """The training processes of this one."""
    parents, ranks = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = parent(int(folder.name))
            if b"mist_ops.training.rank" in (folder / "cmdline").read_bytes():
                ranks.add(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    # Children of the agent only: workers have the same command line.
    return {rank for rank in ranks if parents.get(parents.get(rank, 0)) == os.getpid()}


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(process: int) -> list[str]:
    """The TCP addresses that a process listens on, in the notation of ``/proc``."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()}
    tables = (Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


def endless(study: Study) -> Iterator[Epoch]:
    return train_fold(study, config(epochs=1000), FOLD, device="cpu", processes=2)


def close(run: Iterator[Epoch]) -> None:
    run.close()  # type: ignore[attr-defined]


def interrupt(run: Iterator[Epoch]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt)  # type: ignore[attr-defined]


def test_the_processes_listen_on_loopback_only(study: Study) -> None:
    run = endless(study)
    next(run)
    started = children()
    open_to = [address for process in {*started, parent(min(started))} for address in listening(process)]
    close(run)
    loopback = f"{int.from_bytes(bytes([127, 0, 0, 1]), sys.byteorder):08X}:"
    assert [address for address in open_to if not address.startswith(loopback)] == []


@pytest.mark.parametrize("end", [close, pytest.param(interrupt, marks=pytest.mark.slow)])
def test_no_process_outlives_the_iteration(study: Study, end: Callable[[Iterator[Epoch]], None]) -> None:
    run = endless(study)
    next(run)
    started = children()
    assert len(started) == 2
    end(run)
    assert not children()


@pytest.mark.slow
def test_a_killed_process_ends_the_others(study: Study) -> None:
    run = endless(study)
    next(run)
    os.kill(min(children()), 9)
    with refuses("process-killed"):
        list(run)
    assert not children()


@pytest.mark.slow
def test_no_process_outlives_the_agent_or_the_caller(study: Study, tmp_path: Path) -> None:
    run = endless(study)
    next(run)
    started = children()
    os.kill(parent(min(started)), 9)
    with refuses("process-killed"):
        list(run)
    assert not any(map(alive, started))

    command = [sys.executable, "-c", CALLER, str(tmp_path / "caller")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        started = set(json.loads(caller.stdout.readline()))
        assert len(started) == 2
        caller.kill()
    deadline = time.monotonic() + 30.0
    while any(map(alive, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, started))


@pytest.mark.slow
def test_an_error_of_a_process_is_raised_in_the_caller(study: Study) -> None:
    write_array(study.label("c"), np.full((12, 10, 11, 1), 7, np.uint8))
    with refuses("labels-out-of-range", CaseError, case="c", found=7):
        trained(study, 2)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_raised_in_the_caller(study: Study) -> None:
    for case_id in FOLD.training:
        write_array(study.image(case_id), np.full((12, 10, 11, 1), 3e38, np.float32))
    with refuses("loss-not-finite", DivergedError, names="Fold 0, epoch 1, step 0"):
        trained(study, 2)
    assert not study.checkpoint(0).exists()


def test_an_error_is_sent_as_the_nearest_class_of_errors() -> None:
    ours = (
        CaseError("p1", "is upside down.", code="grid-mismatch"),
        ConfigError("No.", code="unknown-key"),
        MachineError("Full.", code="disk-full", everywhere=True),
    )
    for error in (*ours, UnknownName("loss", "dise", ["dice"])):
        again = from_json(json.loads(json.dumps(to_json(error))))
        assert str(again) == str(error)
        assert isinstance(error, type(again))


def test_a_plan_survives_json(study: Study) -> None:
    plan = Plan(study, config(), FOLD, resume=True, workers=3)
    assert Plan.from_json(plan.as_json()) == plan


def test_one_process_needs_no_communication() -> None:
    model = torch.nn.Linear(1, 1)
    assert Ranks().mean(0.1) == 0.1
    assert Ranks().wrap(model, torch.device("cpu")) is model
