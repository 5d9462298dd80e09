"""The pages of studies in headless Chromium: opened from Dagster, updated while they are open, used by keyboard.

``make screenshots`` keeps a picture of each page for the documentation.
"""

import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium.webdriver.common.keys import Keys

from mist_dagster.instance import addresses
from mist_dagster.instance.studies import register
from mist_ops.dataset import read_train_paths
from mist_ops.records.epochs import append_epoch, write_epochs
from mist_ops.records.passport import Epoch, read_passport, write_passport
from mist_ops.records.reviews import read_reviews
from mist_ops.study import Study

from .chromium import DRIVEN, browser, click, keep, show, text
from .serving import serving, wait_until

pytestmark = DRIVEN
__all__ = ["browser"]  # a fixture


def history(epochs: int, seed: int, floor: float = 0.25) -> list[Epoch]:
    """Epochs of a long training: losses that fall, with noise."""
    generator, best, found = random.Random(seed), math.inf, []
    for index in range(epochs):
        training = floor + 0.9 * math.exp(-index / 40) + generator.gauss(0, 0.02)
        validation = floor + 0.05 + 0.8 * math.exp(-index / 35) + generator.gauss(0, 0.03)
        rate = 0.0005 * (1 + math.cos(math.pi * index / 200))
        waiting = abs(generator.gauss(0.02, 0.02))
        found.append(Epoch(index, training, validation, rate, validation < best, 41.5, waiting, None, 0.1))
        best = min(best, validation)
    return found


@pytest.fixture(scope="module")
def shown(finished: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Study]:
    """A copy of the finished study with long trainings, one of which runs, and another with other scores."""
    old, new = finished.results.parent, tmp_path_factory.mktemp("shown") / "finished"
    shutil.copytree(old, new)
    study = Study(finished.name, numpy=new / "numpy", results=new / "results", data=new / "data" / "dataset.json")
    for path in (
        study.train_paths,
        study.test_paths,
        study.evaluation_paths,
        *(new / "dagster_home/studies").iterdir(),
    ):
        path.write_text(path.read_text().replace(str(old), str(new)))
    for fold in (0, 1):
        passport, epochs = read_passport(study.model(fold)), history(200, fold, 0.25 + 0.02 * fold)
        best = max(epoch.index for epoch in epochs if epoch.improved)
        changed = {"history": tuple(epochs), "best_epoch": best, "seconds": sum(epoch.seconds for epoch in epochs)}
        write_passport(study.passport(fold), passport.model_copy(update=changed))
    write_epochs(study.attempt_epochs(1), history(80, 7, 0.22))
    study.attempt(1).write_bytes(b"an unfinished training")
    study.accepted_csv.write_text(altered(study, 3, -0.01))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(new / "dagster_home"))
        shutil.copytree(study.results, new / "other")
        other = register(new / "other", numpy=study.numpy, data=study.data, name="other_loss")
        other.results_csv.write_text(altered(study, 5, 0.04))
        passport = json.loads(other.passport(0).read_text())
        passport["config"]["training"]["loss"]["name"] = "cldice"
        other.passport(0).write_text(json.dumps({**passport, "weights": "0" * 64}))
    return study, other


def altered(study: Study, seed: int, gain: float) -> str:
    """The scores of a study with other values, so that there is something to compare."""
    generator, lines = random.Random(seed), study.results_csv.read_text().splitlines()
    known = {case.id for case in read_train_paths(study.train_paths).cases}
    rows = [line.split(",") for line in lines]
    for row in rows:
        if row[0] in known:
            row[1:] = [f"{abs(float(cell) * (1 + generator.gauss(3 * gain, 0.1))):.6f}" for cell in row[1:]]
    return "".join(",".join(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def address(shown: tuple[Study, Study]) -> Iterator[str]:
    """The address of a running UI."""
    folder = shown[0].results.parent
    with serving(folder / "dagster_home", folder / "ui.log") as address:
        yield address


@pytest.fixture(autouse=True)
def quiet(browser: Any) -> Iterator[None]:
    """No page of ours asks for anything that its policy forbids, and no script fails."""
    browser.get_log("browser")
    yield
    messages = [entry["message"] for entry in browser.get_log("browser") if "/studies" in entry["message"]]
    assert messages == []


def whole(browser: Any, name: str) -> None:
    """Keep a picture of a whole page, not of its visible part."""
    if "MIST_SCREENSHOTS" not in os.environ:
        return
    hidden = "for (const path of document.querySelectorAll('p > code')) path.textContent = '/data/phantoms/results'"
    browser.execute_script(hidden)
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(1400, min(height + 140, 2200))
    keep(browser, name)
    browser.set_window_size(1600, 1000)
    path = Path(os.environ["MIST_SCREENSHOTS"]) / f"{name}.png"
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size


def press(browser: Any, keys: str) -> None:
    browser.find_element("css selector", "body").send_keys(keys)


def test_a_click_in_dagster_opens_the_page_of_the_patient(
    browser: Any, address: str, shown: tuple[Study, Study]
) -> None:
    study, case = shown[0], read_train_paths(shown[0].train_paths).cases[0].id
    show(browser, f"{address}{addresses.asset(study, 'cv_prediction', case)}", case, "patient page")
    page = addresses.patient(study, case)
    link = wait_until(lambda: browser.find_elements("css selector", f"a[href$='{page}']"))[0]
    before = set(browser.window_handles)
    link.click()
    wait_until(lambda: set(browser.window_handles) - before or page in browser.current_url)
    opened = set(browser.window_handles) - before
    if opened:
        browser.switch_to.window(opened.pop())
    wait_until(lambda: browser.find_elements("css selector", "#review"))
    assert browser.current_url == f"{address}{page}"


def test_the_page_of_a_study_shows_its_state(browser: Any, address: str, shown: tuple[Study, Study]) -> None:
    show(browser, f"{address}{addresses.ROOT}", shown[0].name, shown[1].name)
    wait_until(lambda: text(browser).count("Reasons") == 2)
    whole(browser, "studies")
    browser.get(f"{address}{addresses.home(shown[0])}")
    wait_until(lambda: "as of" in text(browser) and "Latest run" in text(browser))
    assert "Unfinished training of fold 1" in text(browser)
    whole(browser, "study")


def test_curves_are_drawn_and_grow(browser: Any, address: str, shown: tuple[Study, Study]) -> None:
    browser.get(f"{address}{addresses.training(shown[0])}")
    wait_until(lambda: "80 of" in text(browser))
    script = """return [...document.querySelectorAll('.plot canvas')].map((canvas) => {
        const image = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(image.data.buffer)).size;
    })"""
    colors = wait_until(lambda: browser.execute_script(script))
    assert len(colors) == 4
    assert min(colors) > 10
    whole(browser, "training")
    append_epoch(shown[0].attempt_epochs(1), Epoch(80, 0.123456, 0.3, 0.0005, False, 41.5, 0.5))
    wait_until(lambda: "81 of" in text(browser), 10)
    assert "0.1235" in text(browser)
    assert "50 %" in text(browser)


def test_patients_are_chosen_by_keys_and_commented(browser: Any, address: str, shown: tuple[Study, Study]) -> None:
    study = shown[0]
    show(browser, f"{address}{addresses.patients(study)}", "6 of 6")
    wait_until(lambda: browser.find_elements("css selector", "[data-show=stale] .state"))
    whole(browser, "patients")
    press(browser, "g")
    wait_until(lambda: len(browser.find_elements("css selector", "#cards .card")) == 6)
    whole(browser, "gallery")
    press(browser, "g")
    press(browser, "jj")
    second = browser.find_element("css selector", "tr.chosen").get_attribute("data-id")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait_until(lambda: browser.current_url.endswith(addresses.patient(study, second)))
    press(browser, "n")
    browser.switch_to.active_element.send_keys("The mask lacks the left lobe.")
    browser.find_element("css selector", "#review button").click()
    wait_until(lambda: "Saved." in text(browser))
    assert read_reviews(study.reviews)[second].note == "The mask lacks the left lobe."
    whole(browser, "patient_in_the_browser")
    browser.find_element("css selector", "h1").click()
    press(browser, "k")
    wait_until(lambda: browser.find_elements("css selector", "#review") and second not in browser.current_url)
    show(browser, f"{address}{addresses.patients(study)}?flag=reviewed", "1 of 6", second)


def test_a_comparison_leads_to_a_ranking_that_is_filled_in(
    browser: Any, address: str, shown: tuple[Study, Study]
) -> None:
    first, second = shown
    show(browser, f"{address}{addresses.COMPARISON}?study={first.key}&study={second.key}", "Mean ranks", "cldice")
    assert len(browser.find_elements("css selector", "svg.scatter circle")) == 12
    whole(browser, "comparison")
    browser.find_element("link text", "Record this ranking").click()
    output = first.results / f"ranking_{first.key}_{second.key}.csv"
    wait_until(lambda: "No errors" in text(browser) and output.name in text(browser))
    wait_until(lambda: "/runs/" in browser.current_url or launched(browser))
    wait_until(lambda: "Success" in text(browser), 120)
    assert first.name in output.read_text()


def launched(browser: Any) -> bool:
    """Press the launchpad's button, which is deaf until the launchpad has checked its defaults."""
    click(browser, "Launch Run")
    time.sleep(2)
    return "/runs/" in browser.current_url


@pytest.mark.parametrize("page", [addresses.home, addresses.training, addresses.patients, addresses.evidence])
def test_pages_fit_at_200_percent(browser: Any, address: str, shown: tuple[Study, Study], page: Any) -> None:
    browser.set_window_size(800, 900)  # 1600 pixels at 200 %
    try:
        browser.get(f"{address}{page(shown[0])}")
        wait_until(lambda: browser.find_elements("css selector", ".state"))
        wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
    finally:
        browser.set_window_size(1600, 1000)
