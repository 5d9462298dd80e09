"""The web UI of a finished study, driven in headless Chromium: what a researcher looks for is on the screen.

``MIST_SCREENSHOTS=folder`` keeps a picture of each page.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from mist_dagster import cli
from mist_dagster.instance.home import instance
from mist_dagster.launch import CODE_LOCATION, LAUNCH
from mist_dagster.stages import STAGES, asset_names, job_name
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

from .chromium import DRIVEN, browser, click, keep, show, text
from .serving import ask, serving, wait_until

pytestmark = DRIVEN
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def address(finished: Study) -> Iterator[str]:
    """The address of a running UI."""
    with serving(finished.results.parent / "dagster_home", finished.results.parent / "ui.log") as address:
        yield address


@pytest.fixture(scope="module")
def story(finished: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy of the finished study with its data and its records, free to be edited."""
    old, new = finished.results.parent, tmp_path_factory.mktemp("story") / "finished"
    shutil.copytree(old, new)
    study = Study(finished.name, numpy=new / "numpy", results=new / "results", data=new / "data" / "dataset.json")
    tables = (study.train_paths, study.test_paths, study.evaluation_paths)
    for path in (*tables, *(new / "dagster_home" / "studies").iterdir()):
        path.write_text(path.read_text().replace(str(old), str(new)))
    return study


def shown_picture(browser: Any) -> int:
    """The width of the picture in the dialog that is open, once it is drawn."""
    script = "const p = document.querySelector('img[src^=\"data:image/png\"]'); return p ? p.naturalWidth : 0"
    return int(wait_until(lambda: browser.execute_script(script)))


@pytest.mark.parametrize("optional", [False, True], ids=["pipeline", "optional"])
def test_the_graph_shows_every_asset_of_the_study(browser: Any, address: str, finished: Study, optional: bool) -> None:
    names = [name for stage in STAGES.values() if stage.optional == optional for name in asset_names(stage)]
    group = f"{finished.key}__optional" if optional else finished.key
    show(browser, f"{address}/locations/__repository__@{CODE_LOCATION}/asset-groups/{group}/lineage", names[-1])
    keep(browser, f"lineage_{group}")
    wait_until(lambda: all_drawn(browser, names))
    keep(browser, f"graph_{group}")
    press(browser, "panel_show_left")  # the explorer, which has full names
    wait_until(lambda: set(names) <= set(text(browser).splitlines()))


def all_drawn(browser: Any, names: Iterable[str]) -> bool:
    """Whether the graph has a node for each asset; zoom out otherwise, as only nodes in the window are drawn."""
    drawn = text(browser).splitlines()
    if all(any(abbreviates(line, name) for line in drawn) for name in names):
        return True
    press(browser, "zoom_out")
    time.sleep(1)
    return False


def abbreviates(line: str, name: str) -> bool:
    """Whether a line is a name, or a long name without its middle."""
    start, dots, end = line.partition("…")
    return line == name or bool(dots and start and name.startswith(start) and name.endswith(end))


def press(browser: Any, icon: str) -> None:
    """Press the button with an icon."""
    wait_until(lambda: browser.find_elements("css selector", f"[aria-label={icon}]"))[0].click()


def test_a_patient_shows_its_scores_and_its_picture(browser: Any, address: str, finished: Study) -> None:
    case = read_train_paths(finished.train_paths).cases[0].id
    show(browser, f"{address}/assets/{finished.name}/cv_prediction?view=partitions&partition={case}", case, "Dice ")
    click(browser, "[Show Markdown]")
    assert shown_picture(browser) >= 64
    keep(browser, "patient")


def test_a_fold_shows_its_model_and_its_curve(browser: Any, address: str, finished: Study) -> None:
    page = f"{address}/assets/{finished.name}/fold_model?view=partitions&partition=fold_0"
    show(browser, page, "best validation loss", "fold_0.pt")
    click(browser, "[Show Markdown]")
    assert shown_picture(browser) >= 64
    keep(browser, "fold")


def test_one_edited_mask_from_its_blast_radius_to_its_new_picture(browser: Any, story: Study) -> None:
    case = read_train_paths(story.train_paths).cases[0]
    others = [story.image(other.id) for other in read_train_paths(story.train_paths).cases[1:]]
    before = {path: path.stat().st_mtime_ns for path in others}
    labels, geometry = read_labels(case.mask)
    labels[tuple(np.argwhere(labels == 0)[0])] = 1
    write_labels(case.mask, labels, geometry)
    checks = f"assets/{story.name}/preprocessed_case?view=checks"
    with serving(story.results.parent / "dagster_home", story.results.parent / "ui.log") as address:
        show(browser, f"{address}/{checks}", "in_sync", "current")
        click(browser, "Execute all")  # or the sensor, within a minute
        wait_until(lambda: "its mask changed" in text(browser), seconds=120)
        keep(browser, "blast_radius")
        show(
            browser,
            f"{address}/locations/__repository__@{CODE_LOCATION}/jobs/{story.name}__make_current/playground",
            "No errors",
        )
        wait_until(lambda: "/runs/" in browser.current_url or launched(browser))
        wait_until(lambda: finished_run(story, "make_current"), seconds=240)
        show(browser, f"{address}/{checks}", "in_sync", "current")
        keep(browser, "current_again")
        page = f"{address}/assets/{story.name}/cv_prediction?view=partitions&partition={case.id}"
        show(browser, page, case.id, "Dice ")
        click(browser, "[Show Markdown]")
        assert shown_picture(browser) >= 64
        keep(browser, "patient_again")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_terminated_retraining_leaves_the_model_and_is_resumed(
    browser: Any, story: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Retrain a fold for more epochs, terminate it, re-execute it, and compare the two models."""
    monkeypatch.setenv("DAGSTER_HOME", str(story.results.parent / "dagster_home"))
    where, old = ["--results", str(story.results)], tmp_path / "old.pt"
    shutil.copy(story.model(0), old)
    shutil.copy(story.passport(0), old.with_suffix(".json"))
    assert cli.accept(where) == 0
    write_config(story.config, override(read_config(story.config), {"training.epochs": 30}))
    page = f"assets/{story.name}/fold_model?view=partitions&partition=fold_0"
    with serving(story.results.parent / "dagster_home", story.results.parent / "ui.log") as address:
        run = launch(address, story, "train", "fold_0")
        wait_until(story.attempt(0).exists, 120)
        show(browser, f"{address}/{page}", "Materializing (1)")
        terminate(browser, f"{address}/runs/{run}")
        show(browser, f"{address}/{page}", "Materialized (2)", f"Run {run[:8]} was canceled, and did not materialize")
        keep(browser, "model_after_termination")
        assert story.model(0).read_bytes() == old.read_bytes()
        assert story.passport(0).read_bytes() == old.with_suffix(".json").read_bytes()
        shown = said(capfd, lambda: cli.status(where))
        assert "Unfinished training of fold 0: mist_train --resume continues it, --discard removes it." in shown
        assert "Train fold 0: epochs was 1 and is 30." in shown
        assert re.search(
            r"Fold 0 resumes its unfinished training after \d+ epoch", re_executed(browser, f"{address}/runs/{run}")
        )
        show(browser, f"{address}/{page}", "Materialized (2)", "epochs")
        keep(browser, "model_after_resuming")
    assert len(read_passport(story.model(0)).history) == 30
    assert "training.epochs" in said(capfd, lambda: cli.passport(["diff", str(old), str(story.model(0))]))
    # Fold 1 is still the model of before, which finalize reports.
    assert "[models-stale]" in said(capfd, lambda: cli.finalize([*where, "--device", "cpu"]), status=1)
    before, after = (scores(path) for path in (story.accepted_csv, story.results_csv))
    changed = {case.id for case in read_train_paths(story.train_paths).cases if before[case.id] != after[case.id]}
    assert changed
    assert changed <= set(read_train_paths(story.train_paths).held_out(0))


def test_a_change_is_asked_about_and_kept(browser: Any, story: Study) -> None:
    with serving(story.results.parent / "dagster_home", story.results.parent / "ui.log") as address:
        run = launch(address, story, "what_if", config={"changes": ["training.epochs=7"]})
        wait_until(lambda: finished_run(story, "what_if"), seconds=120)
        show(browser, f"{address}/runs/{run}", "answer", "training.epochs=7")
        click(browser, "[Show Markdown]")
        wait_until(lambda: "epochs was 1 and is 7" in text(browser))
        keep(browser, "what_if")
        write_config(story.config, override(read_config(story.config), {"training.epochs": 7}))
        launch(address, story, "keep", config={"change": "epochs", "reason": "the loss had converged"})
        wait_until(lambda: finished_run(story, "keep"), seconds=120)
        checks = f"assets/{story.name}/fold_model?view=checks"
        show(browser, f"{address}/{checks}", "finite_losses", "in_sync")
        click(browser, "in_sync")
        wait_until(lambda: "2 kept as current" in text(browser))
        keep(browser, "kept")
        wait_until(lambda: "the loss had converged" in text(browser))


def said(terminal: pytest.CaptureFixture[str], command: Callable[[], int], status: int = 0) -> str:
    """What a command shows."""
    terminal.readouterr()
    assert command() == status
    shown = terminal.readouterr()
    return shown.out + shown.err


def scores(table: Path) -> dict[str, str]:
    """The row of each patient."""
    return {line.partition(",")[0]: line for line in table.read_text().splitlines()}


def terminate(browser: Any, page: str) -> None:
    """Terminate a run on its page."""
    show(browser, page, "Terminate")
    click(browser, "Terminate")
    click(browser, "Terminate 1 run")
    wait_until(lambda: "Canceled" in text(browser))
    keep(browser, "terminated")


def re_executed(browser: Any, page: str) -> str:
    """Re-execute a run on its page; return the log of the new run when it has succeeded."""
    show(browser, page, "Re-execute all (*)")
    click(browser, "Re-execute all (*)")
    again = wait_until(lambda: run_shown(browser, page.rpartition("/")[2]))
    with instance() as records:
        wait_until(lambda: records.get_run_by_id(again).is_finished, 240)
        assert records.get_run_by_id(again).is_success
        return " ".join(entry.message for entry in records.all_logs(again))


def launch(
    address: str, study: Study, stage: str, partition: str | None = None, config: Mapping[str, object] | None = None
) -> str:
    """Launch a job, with the request that the UI sends; return the id of the run."""
    selector = {"repositoryLocationName": CODE_LOCATION, "repositoryName": "__repository__"}
    parameters = {
        "selector": {**selector, "jobName": job_name(study, stage)},
        "runConfigData": {"ops": {f"{job_name(study, stage)}_op": {"config": config}}} if config else {},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}] if partition else []},
    }
    return str(ask(address, LAUNCH, {"parameters": parameters})["launchRun"]["run"]["runId"])


def run_shown(browser: Any, other: str) -> str | None:
    """The run whose page is shown, if it is another one."""
    found = re.search(r"/runs/([0-9a-f-]{36})", browser.current_url)
    return found[1] if found and found[1] != other else None


def launched(browser: Any) -> bool:
    """Press the launchpad's button, which is deaf until the launchpad has checked its defaults."""
    click(browser, "Launch Run")
    time.sleep(2)
    return "/runs/" in browser.current_url


def finished_run(study: Study, stage: str) -> bool:
    """Whether a run of a stage ended well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "DAGSTER_HOME", str(study.results.parent / "dagster_home")
        )  # the storages lie in the home of the process
        with instance() as opened:
            runs = opened.get_runs(dg.RunsFilter(tags={"mist/study": study.key, "mist/stage": stage}))
            return any(run.is_success for run in runs)


def test_dagster_asset_materialize_writes_the_same_arrays(address: str, finished: Study) -> None:
    case = read_train_paths(finished.train_paths).cases[1].id
    before = finished.image(case).read_bytes()
    finished.image(case).unlink()
    command = ["asset", "materialize", "-m", "mist_dagster.definitions", "--partition", case]
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *command, "--select", f"{finished.name}/preprocessed_case"],
        env={**os.environ, "DAGSTER_HOME": str(finished.results.parent / "dagster_home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert finished.image(case).read_bytes() == before
