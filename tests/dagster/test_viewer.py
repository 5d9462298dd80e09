"""The viewer on the page of a patient: what the server gives it, and what it draws in headless Chromium."""

import io
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from mist_dagster import cli
from mist_dagster.instance import addresses
from mist_dagster.instance.studies import register
from mist_dagster.instance.webserver import Beside, guarded
from mist_dagster.site.application import application
from mist_dagster.site.viewer import LIBRARY
from mist_ops.dataset import Case, read_train_paths
from mist_ops.imaging.nifti import read_geometry, read_labels, write_labels
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

from .browsing import get
from .chromium import DRIVEN, browser
from .serving import free_port, wait_until

__all__ = ["browser"]  # a fixture

_EDGE = 10  # pixels, in which the ring around a focused canvas is seen behind its round corners


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory, empty_home: Path) -> Iterator[Study]:
    """An analyzed study; the prediction of its first patient lacks the lower half of the lesion."""
    folder = tmp_path_factory.mktemp("viewed")
    shutil.copytree(empty_home, folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(folder / "home"))
        data = write_phantoms(folder / "data", patients=4, tests=0, size=(40, 44, 36))
        assert (
            cli.analyze(
                ["--data", str(data), "--results", str(folder / "results"), "--nfolds", "2", "--study", "viewed"]
            )
            == 0
        )
        study = register(folder / "results", numpy=folder / "numpy")
        study.cv_predictions.mkdir(parents=True)
        case = read_train_paths(study.train_paths).cases[0]
        assert case.mask
        labels, geometry = read_labels(case.mask)
        canonical = geometry.canonical()[1].apply(labels)  # a view, in which z grows upwards
        below = np.argwhere(canonical)[:, 2]
        canonical[:, :, : (below.min() + below.max()) // 2] = 0
        write_labels(study.cv_prediction(case.id), labels, geometry)
        yield study


@pytest.fixture
def case(viewed: Study) -> Case:
    return read_train_paths(viewed.train_paths).cases[0]


def shown(study: Study, case: Case) -> Mapping[str, Any]:
    """What the page hands to the script."""
    page = get(addresses.patient(study, case.id)).text
    return json.loads(unescape(page.split("data-viewer='")[1].split("'>")[0]))  # type: ignore[no-any-return]


def test_the_page_hands_over_images_labels_and_header(viewed: Study, case: Case) -> None:
    data = shown(viewed, case)
    assert data["channels"] == list(case.images)
    assert set(data["images"]) == {*case.images, "truth", "prediction"}
    for image in data["images"].values():
        assert get(image["address"]).status == 200
        assert tuple(image["size"]) == read_geometry(next(iter(case.images.values()))).size
    assert [(label["label"], label["name"]) for label in data["labels"]] == [
        (1, "whole_lesion without core"),
        (2, "core"),
    ]
    assert data["modality"] == "mr"
    page = get(addresses.patient(viewed, case.id)).text
    geometry = read_geometry(next(iter(case.images.values())))
    assert " × ".join(map(str, geometry.size)) in page
    assert f"{geometry.axis_codes} (" in page
    assert "code 1, scanner" in page


def test_lesions_have_status_volume_and_position(viewed: Study, case: Case) -> None:
    answer = get(shown(viewed, case)["lesions"])
    labels, geometry = read_labels(case.mask)  # type: ignore[arg-type]
    (whole,) = [lesion for lesion in answer.json["lesions"] if lesion["class"] == "whole_lesion"]
    assert whole["status"] == "detected"
    assert whole["volume_ml"] == pytest.approx(np.count_nonzero(labels) * np.prod(geometry.spacing) / 1000)
    center = geometry.ras_affine @ (*np.argwhere(labels).mean(axis=0), 1)
    assert whole["center_mm"] == pytest.approx(center[:3].tolist())
    assert answer.json["more"] == 0


def test_lesions_follow_the_files(viewed: Study, case: Case) -> None:
    prediction, address = viewed.cv_prediction(case.id), shown(viewed, case)["lesions"]
    kept = prediction.read_bytes()
    labels, geometry = read_labels(prediction)
    try:
        write_labels(prediction, np.zeros_like(labels), geometry)
        assert {lesion["status"] for lesion in get(address).json["lesions"]} == {"missed"}
        prediction.unlink()
        assert get(address).status == 404
        assert shown(viewed, case)["lesions"] is None
    finally:
        prediction.write_bytes(kept)


def test_a_preview_has_at_most_the_voxels_asked_for(viewed: Study, case: Case) -> None:
    for name, path in {**case.images, "truth": case.mask, "prediction": viewed.cv_prediction(case.id)}.items():
        answer = get(shown(viewed, case)["images"][name]["preview"], query="max=9000")
        small = nib.Nifti1Image.from_bytes(answer.content)
        assert np.prod(small.shape) <= 9000
        np.testing.assert_array_equal(small.get_fdata(), nib.load(path).get_fdata()[::2, ::2, ::2])


@pytest.mark.parametrize(
    "query", ["", "max=", "max=0", "max=-1", "max=many", "max=1e6", "max=99999999999999999999", "max=٣"]
)
def test_a_preview_without_a_sensible_limit_is_refused(viewed: Study, case: Case, query: str) -> None:
    assert get(shown(viewed, case)["images"]["t1"]["preview"], query=query).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "{first}/previews/t3.nii",
        "{first}/previews/../../../../train_paths.nii",
        "{first}/previews//etc/passwd.nii",
        "{first}/previews/mask\0.nii",
        "nobody/previews/t1.nii",
        "nobody/lesions.json",
        "../lesions.json",
        "{second}/lesions.json",  # has no prediction
    ],
)
def test_other_names_are_refused(viewed: Study, path: str) -> None:
    first, second, *_ = (case.id for case in read_train_paths(viewed.train_paths).cases)
    address = f"{addresses.patients(viewed)}/{path.format(first=first, second=second)}"
    assert get(address, query="max=1000").status == 404


def test_an_image_that_cannot_be_read_is_reported_and_the_others_are_shown(viewed: Study, case: Case) -> None:
    prediction = viewed.cv_prediction(case.id)
    kept = prediction.read_bytes()
    try:
        prediction.write_bytes(kept[: len(kept) // 2][:40])
        answer = get(addresses.patient(viewed, case.id))
        assert answer.status == 200
        assert str(prediction) in answer.text
        assert set(shown(viewed, case)["images"]) == {*case.images, "truth"}
    finally:
        prediction.write_bytes(kept)


def test_niivue_is_served_with_its_licence() -> None:
    for name, content in (("niivue.umd.js", b"niivue"), ("font.png", b"\x89PNG"), ("LICENSE", b"BSD 2-Clause")):
        answer = get(f"{LIBRARY}/{name}")
        assert (answer.status, content in answer.content) == (200, True)


@pytest.fixture(scope="module")
def address(viewed: Study) -> Iterator[str]:
    """The address of a server of the pages."""
    app = guarded(Beside(application(), PlainTextResponse("Dagster")))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


class Viewer:
    """The viewer in the browser."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)
        state = wait_until(lambda: self.find("#viewer").get_attribute("data-state"), 120)
        assert state == "ready", self.find("#viewer .notice").text

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def click(self, label: str) -> None:
        self.browser.find_element(
            "xpath", f"//*[@id='viewer']//button[starts-with(normalize-space(.), '{label}')]"
        ).click()

    def press(self, keys: str) -> None:
        self.find("#viewer canvas").send_keys(keys)

    def pixels(self) -> np.ndarray:
        """The canvas as it is on the screen."""
        from PIL import Image

        image = Image.open(io.BytesIO(self.find("#viewer canvas").screenshot_as_png)).convert("RGB")
        return np.asarray(image).astype(int)[_EDGE:-_EDGE, _EDGE:-_EDGE]

    def colored(self) -> np.ndarray:
        """Where a mask is drawn: scan and crosshair are gray."""
        pixels = self.pixels()
        return np.ptp(pixels, axis=2) > 40

    @property
    def voxel(self) -> list[int]:
        text = self.find("#viewer .readout").text
        return [int(index) for index in text.split("voxel")[1].split("\n")[0].split(",")][:3]


@pytest.fixture
def viewer(browser: Any, address: str, viewed: Study, case: Case) -> Viewer:
    return Viewer(browser, address + addresses.patient(viewed, case.id))


class TestInChromium:
    pytestmark = DRIVEN

    def test_the_scan_is_drawn_and_nothing_is_blocked(self, viewer: Viewer) -> None:
        assert len(np.unique(viewer.pixels())) > 50
        assert viewer.colored().any()
        assert [line for line in viewer.browser.get_log("browser") if line["level"] == "SEVERE"] == []

    def test_the_masks_move_with_the_slice(self, viewer: Viewer) -> None:
        viewer.click("Axial")
        wait_until(lambda: viewer.colored().any())
        before, voxel = viewer.colored(), viewer.voxel
        viewer.press("\ue00e" * 5)  # page up
        wait_until(lambda: viewer.voxel != voxel)
        wait_until(lambda: not np.array_equal(viewer.colored(), before))

    def test_each_mask_can_be_hidden(self, viewer: Viewer) -> None:
        viewer.press("t")
        viewer.press("p")
        wait_until(lambda: not viewer.colored().any())
        viewer.click("Truth")
        wait_until(lambda: viewer.colored().any())

    def test_the_difference_shows_what_was_missed(self, viewer: Viewer) -> None:
        viewer.press("t")
        viewer.press("p")
        wait_until(lambda: not viewer.colored().any())
        viewer.press("d")
        wait_until(lambda: viewer.colored().any())
        red, _, blue = viewer.pixels()[viewer.colored()].mean(axis=0)
        assert blue > red  # "truth only" is blue, and the prediction has nothing of its own

    def test_the_jump_goes_to_the_worst_slice(self, viewer: Viewer, viewed: Study, case: Case) -> None:
        assert case.mask
        truth, geometry = read_labels(case.mask)
        differing = truth != read_labels(viewed.cv_prediction(case.id))[0]
        axis = int(np.abs(geometry.axes[2]).argmax())
        counts = np.count_nonzero(differing, axis=tuple({0, 1, 2} - {axis}))
        viewer.press("\ue00e" * 4)
        wait_until(lambda: counts[viewer.voxel[axis]] < counts.max())
        viewer.click("Worst slice")
        wait_until(lambda: counts[viewer.voxel[axis]] == counts.max())
        assert f"{counts.max()} differing voxels" in viewer.find("#viewer").text

    def test_a_click_on_a_lesion_goes_there(self, viewer: Viewer, case: Case) -> None:
        assert case.mask
        labels, geometry = read_labels(case.mask)
        viewer.click("core")
        voxel = wait_until(lambda: labels[tuple(viewer.voxel)] == 2 and viewer.voxel)
        middle = np.argwhere(labels == 2).mean(axis=0)
        assert np.abs(np.subtract(voxel, middle) * geometry.spacing).max() <= max(geometry.spacing)
        readout = viewer.find("#viewer .readout").text.split("\n")
        assert "truth core" in readout

    def test_without_webgl_the_page_says_so(self, viewer: Viewer) -> None:
        script = "HTMLCanvasElement.prototype.getContext = () => null"
        added = viewer.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        try:
            viewer.browser.refresh()
            wait_until(lambda: "no WebGL 2" in viewer.find("#viewer").text)
            assert not viewer.find("#viewer canvas").is_displayed()
        finally:
            viewer.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
            time.sleep(0.1)
