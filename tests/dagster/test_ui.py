"""The web UI of a finished study, driven in headless Chromium: what a researcher looks for is on the screen.

``MIST_SCREENSHOTS=folder`` keeps a picture of each page.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from mist_dagster.instance.home import instance
from mist_dagster.launch import CODE_LOCATION
from mist_dagster.stages import STAGES, asset_names
from mist_ops.dataset import read_train_paths
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.study import Study

from .serving import serving, wait_until

selenium = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="there is no Chromium with its driver"),
]

CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1600,1000",
)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    options = selenium.ChromeOptions()
    for flag in CHROMIUM_FLAGS:
        options.add_argument(flag)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def text(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def show(browser: Any, url: str, *expected: str) -> None:
    browser.get(url)
    wait_until(lambda: all(word in text(browser) for word in expected))


def click(browser: Any, label: str) -> None:
    xpath = f"//*[normalize-space(text())='{label}']"
    wait_until(lambda: browser.find_elements("xpath", xpath))[0].click()


def shown_picture(browser: Any) -> int:
    """The width of the picture in the dialog that is open, once it is drawn."""
    script = "const p = document.querySelector('img[src^=\"data:image/png\"]'); return p ? p.naturalWidth : 0"
    return int(wait_until(lambda: browser.execute_script(script)))


def keep(browser: Any, name: str) -> None:
    if "MIST_SCREENSHOTS" in os.environ:
        time.sleep(1)  # dialogs fade in
        browser.save_screenshot(str(Path(os.environ["MIST_SCREENSHOTS"]) / f"{name}.png"))


def test_the_graph_shows_every_asset_of_the_study(browser: Any, address: str, finished: Study) -> None:
    graph = f"{address}/locations/__repository__@{CODE_LOCATION}/asset-groups/{finished.name}/lineage"
    show(browser, graph, "study_config", "fold_model", "cv_prediction", "evaluation")
    wait_until(lambda: all(name[:6] in text(browser) for stage in STAGES.values() for name in asset_names(stage)))
    keep(browser, "graph")


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
        click(browser, "Execute")
        wait_until(lambda: "1 stale artifact" in text(browser), seconds=120)
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
