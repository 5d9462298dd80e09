"""What thousands of patients cost: Dagster's time per patient, durations of a plan, records after re-runs, and the UI.

python bench/patients.py --patients 5000 --reruns 10 --ui

The patients are tiny phantoms. Dagster's time is that of a stage as a run minus that of the same work called directly;
what a stage computes is computed once before, and is then read from its files in both. ``--ui`` needs Chromium with its
driver.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from mist_ops.analysis.analyze import analyze
from mist_ops.analysis.folds import make_fold
from mist_ops.boxes import read_boxes
from mist_ops.config import StudyConfig, override, read_config, write_config
from mist_ops.dataset import Case, read_train_paths
from mist_ops.evaluation.picture import dice_of
from mist_ops.evaluation.score import CaseScores
from mist_ops.evaluation.study import StudyEvaluation, open_evaluation
from mist_ops.evaluation.table import Pair, evaluate
from mist_ops.files import file_hash, file_hashes
from mist_ops.phantoms import write_phantoms
from mist_ops.preprocessing.case import write_case
from mist_ops.records.arrays import read_record
from mist_ops.records.passport import Content, Epoch, Passport, write_passport
from mist_ops.records.prediction import Origin, recording
from mist_ops.steps import digest
from mist_ops.study import Study
from mist_ops.workers import Outcome, collect

SIZE = (16, 16, 16)
NAME = "many"
STATES = "return document.querySelectorAll('[data-show=stale] .state').length"


class Spent(NamedTuple):
    """Wall and CPU seconds of some work, its processes included; differences of two."""

    wall: float
    cpu: float

    def beyond(self, other: Spent) -> Spent:
        """What this took more than other work."""
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


Step = tuple[str, Spent | float]
"""What was measured, and seconds or MB."""


def main() -> None:
    """Time the stages, measure the records and the UI, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=5000)
    parser.add_argument("--reruns", type=int, default=0, help="of preprocessing, prediction and evaluation")
    parser.add_argument("--ui", action="store_true", help="measure pages and memory of mist_ui")
    parser.add_argument(
        "--folder", type=Path, help="keep the study here, and use the phantoms in it; default: a temporary folder"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["DAGSTER_HOME"] = f"{folder}/home"
        _show(options.patients, _steps(folder, options.patients, options.reruns))
        if options.ui:
            _show(options.patients, _ui(folder / "home", options.patients))


def _show(patients: int, steps: Iterator[Step]) -> None:
    table = Table("", "seconds", "CPU seconds", "ms per patient", "MB", title=f"{patients} patients")
    for step, value in steps:
        if isinstance(value, Spent):
            cells = [f"{value.wall:.2f}", f"{value.cpu:.2f}", f"{1000 * value.wall / patients:.2f}", ""]
        else:
            cells = ["", "", "", f"{value:.0f}"]
        Console().print(step, *cells)
        table.add_row(step, *cells)
    Console().print(table)


def _steps(folder: Path, patients: int, reruns: int) -> Iterator[Step]:
    from mist_dagster.definitions import build_definitions
    from mist_dagster.instance.studies import register
    from mist_dagster.launch import launcher
    from mist_dagster.runtime.progress import LogProgress

    data = folder / "data" / "dataset.json"
    if not data.exists():
        write_phantoms(folder / "data", patients=patients, size=SIZE)
    study = register(folder / "results", numpy=folder / "numpy", data=data, name=NAME)
    list(analyze(study))
    yield "definitions of the study", _spent(lambda: build_definitions([study]).resolve_all_job_defs())
    with launcher(LogProgress(), build_definitions) as opened, _computed_before():
        yield from _stages(study, opened.run_stage)
        yield from _marks(study, opened.run_stage)
        yield from _size(folder / "home", "records after one run of each stage")
        ids = [case.id for case in read_train_paths(study.train_paths).cases]
        for number in range(reruns):
            opened.run_stage(study, "preprocess", {}, ids)
            opened.run_stage(study, "predict", {"figures": False}, ids)
            opened.run_stage(study, "evaluate", {"figures": False})
            yield from _size(folder / "home", f"records after {number + 1} re-runs (goal: 200 MB)")


def _stages(study: Study, run: Callable[..., None]) -> Iterator[Step]:
    config, cases, boxes = read_config(study.config), read_train_paths(study.train_paths).cases, read_boxes(study)
    ids = [case.id for case in cases]
    computed = _spent(lambda: [write_case(study, case, config, boxes[case.id]) for case in cases])
    yield "preprocessing, computation only", computed
    yield "first observation of the files", _spent(lambda: run(study, "observe"))
    yield "observation, nothing changed", _spent(lambda: run(study, "observe"))
    direct = _spent(lambda: list(_arrays(study, cases)))
    recorded = _spent(lambda: run(study, "preprocess", {}, ids))
    yield "preprocessing, Dagster's time (goal: 3 ms)", recorded.beyond(direct)
    _pretend_models(study, config)
    _pretend_predictions(study, config)
    direct = _spent(lambda: [_shown(study, config, case) for case in cases])
    recorded = _spent(lambda: run(study, "predict", {"figures": False}, ids))
    yield "prediction, Dagster's time (goal: 3 ms)", recorded.beyond(direct)
    direct = _spent(lambda: _evaluate(study))
    recorded = _spent(lambda: run(study, "evaluate", {"figures": False}))
    yield "evaluation, Dagster's time (goal: 3 ms)", recorded.beyond(direct)


def _marks(study: Study, run: Callable[..., None]) -> Iterator[Step]:
    from mist_dagster.freshness.status import status
    from mist_dagster.sensors import state_of_files

    config = read_config(study.config)
    found = status(study)
    assert found.current, found.stale
    yield "status, all current", _spent(lambda: status(study))
    command = [_script("mist_status"), "--results", str(study.results), "--numpy", str(study.numpy)]
    yield "mist_status as a command, all current (goal: 3 s)", _spent(lambda: subprocess.run(command, check=True))
    yield "first marks in the UI", _spent(lambda: run(study, "status"))
    yield "marks, nothing changed", _spent(lambda: run(study, "status"))
    yield "a tick of the sensor, nothing changed", _spent(lambda: state_of_files(study))
    write_config(study.config, override(config, {"preprocessing.skip": not config.preprocessing.skip}))
    yield "marks, every patient became stale", _spent(lambda: run(study, "status"))
    write_config(study.config, config)
    yield "marks, every patient became current", _spent(lambda: run(study, "status"))


@contextlib.contextmanager
def _computed_before() -> Iterator[None]:
    """Let stages read the files that they would compute."""
    with (
        patch("mist_dagster.assets.preprocessing.write_cases", lambda study, cases, *_: _arrays(study, cases)),
        patch("mist_dagster.assets.prediction._held_out_here", _masks),
        patch.object(StudyEvaluation, "score", lambda task, _=1: _scores(task)),
    ):
        yield


def _arrays(study: Study, cases: Sequence[Case]) -> Iterator[Outcome[Case, str]]:
    for case in cases:
        yield Outcome(case, read_record(study, case.id).content)


@contextlib.contextmanager
def _masks(_: object, __: object, study: Study, ids: set[str]) -> Iterator[Iterator[Outcome[Case, None]]]:
    yield (Outcome(case) for case in read_train_paths(study.train_paths).cases if case.id in ids)


def _shown(study: Study, config: StudyConfig, case: Case) -> object:
    """Read what a prediction shows of a patient."""
    return dice_of(case, study.cv_prediction(case.id), config), file_hash(study.cv_prediction(case.id))


def _scores(task: StudyEvaluation) -> Iterator[Outcome[Pair, CaseScores]]:
    """The scores of the first patient for all."""
    task.prepare()
    first = next(evaluate(task.pairs[:1], task.config.evaluation)).result
    return (Outcome(pair, first) for pair in task.pairs)


def _evaluate(study: Study) -> None:
    task = open_evaluation(study)
    inputs = file_hashes(task.inputs)
    rows, failures = collect(_scores(task), lambda _: None)
    task.write(rows, {case_id: str(error) for case_id, error in failures.items()}, inputs, figures=False)


def _size(home: Path, what: str) -> Iterator[Step]:
    """MB of the databases, once the retention has ended."""
    import threading

    for thread in threading.enumerate():
        if thread.name == "retention":
            thread.join()
    yield what, sum(path.stat().st_size for path in home.rglob("*.db*")) / 1e6


def _pretend_models(study: Study, config: StudyConfig) -> None:
    """Write passports as training would, so that a plan makes all its comparisons."""
    assignment = read_train_paths(study.train_paths)
    for index in config.training.folds:
        fold = make_fold(assignment, index, config.training.val_percent, config.training.seed)
        study.models.mkdir(parents=True, exist_ok=True)
        study.model(index).write_bytes(b"weights")
        parts = {"training": fold.training, "validation": fold.validation}
        content = {part: {name: read_record(study, name).content for name in ids} for part, ids in parts.items()}
        passport = Passport(
            fold=index,
            **parts,
            held_out=fold.held_out,
            content=Content.model_validate(content),
            config=config.model_dump(mode="json"),
            settings=digest(config, "training"),
            seed=config.training.seed,
            versions={},
            mist_version=config.mist_version,
            device="cpu",
            history=(Epoch(0, 1.0, 1.0, 0.001, True, 3600.0, 0.0),),
            best_epoch=0,
            seconds=3600.0,
            weights=file_hash(study.model(index)),
        )
        write_passport(study.passport(index), passport)


def _pretend_predictions(study: Study, config: StudyConfig) -> None:
    """Write the masks of the patients as their predictions, with records."""
    assignment = read_train_paths(study.train_paths)
    study.cv_predictions.mkdir(parents=True, exist_ok=True)
    weights = {fold: file_hash(study.model(fold)) for fold in config.training.folds}
    for case in assignment.cases:
        fold = assignment.fold_of[case.id]
        mask, record = study.cv_prediction(case.id), study.prediction_record("train", case.id)
        with recording(record, mask, Origin.of_arrays({fold: weights[fold]}, config, study, case.id)):
            assert case.mask
            shutil.copyfile(case.mask, mask)


def _ui(home: Path, patients: int) -> Iterator[Step]:
    """Seconds until pages show all patients, and MB of memory of mist_ui, and of a run that it starts."""
    shown = f"{patients} of {patients}"
    with _browser() as browser, _server(home) as (server, address):
        yield "memory of mist_ui before any page", sum(_memory(server).values())
        page = f"{address}/studies/{NAME}/patients"
        for again in ("first time", "again"):
            yield f"list of patients, {again} (goal: 3 s)", _spent(lambda: _load(browser, page, shown))
            yield (
                f"state of each patient in it, {again}",
                _spent(lambda: _wait(lambda: browser.execute_script(STATES))),
            )
        assets = f"{address}/assets/{NAME}/preprocessed_case?view=partitions"
        for again in ("first time", "again"):
            yield (
                f"partitions of an asset in Dagster's UI, {again}",
                _spent(lambda: _load(browser, assets, f"{patients:,}", "Materialized")),
            )
        yield from ((f"memory: {name}", megabytes) for name, megabytes in _memory(server).items())
        yield "memory of a run of mist_ui, at most", _memory_of_run(server)
        yield from ((f"memory after a run: {name}", megabytes) for name, megabytes in _memory(server).items())


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-background-networking", "--window-size=1600,1000"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def _server(home: Path) -> Iterator[tuple[int, str]]:
    """Run mist_ui; yield its process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [_script("mist_ui"), "--port", str(port), "--tensorboard-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as server:
        try:
            _wait((home / "webserver.url").exists)
            time.sleep(20)  # the code server and the first ticks of the daemon
            yield server.pid, f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGINT)


def _load(browser: Any, address: str, *expected: str) -> None:
    browser.get(address)
    _wait(lambda: all(text in browser.execute_script("return document.body.innerText") for text in expected))


def _wait(condition: Callable[[], object], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.02)


def _memory(server: int) -> dict[str, float]:
    """Resident MB of a process and those below it, by their role."""
    roles = {
        "multiprocessing.spawn": "run",
        "code-server": "code server",
        "grpc": "code server's process",
        "_daemon": "daemon",
    }
    found: dict[str, float] = {}
    for process in _below(server):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().decode().replace("\0", " ")
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
            role = "web server" if process == server else next((roles[key] for key in roles if key in command), "other")
            found[role] = found.get(role, 0.0) + kilobytes * 1024 / 1e6
    return found


def _below(process: int) -> Iterator[int]:
    yield process
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _below(int(child))


def _memory_of_run(server: int) -> float:
    """The most memory of a run that records all patients."""
    from mist_dagster.instance.studies import registered_studies
    from mist_dagster.launch import submit

    [study] = registered_studies()
    ids = [case.id for case in read_train_paths(study.train_paths).cases]
    list(submit(study, "preprocess", {}, ids, {}, known=ids))
    most = 0.0
    _wait(lambda: "run" in _memory(server))
    while "run" in (now := _memory(server)):
        most = max(most, now["run"])
        time.sleep(0.2)
    return most


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _spent(work: Callable[[], object]) -> Spent:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    return Spent(time.perf_counter() - wall, sum(os.times()[:4]) - cpu)


if __name__ == "__main__":
    main()
