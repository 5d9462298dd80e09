"""The review of masks as a user meets it: the queue, verdicts, a corrected mask, and what follows from it."""

import os
import shutil
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_dagster.freshness.status import status
from mist_dagster.instance import addresses
from mist_dagster.instance.studies import register
from mist_ops.dataset import read_train_paths
from mist_ops.files import file_hash
from mist_ops.imaging.nifti import read_labels, write_labels
from mist_ops.records.passport import read_passport
from mist_ops.records.reviews import Review, read_reviews, write_review
from mist_ops.review.queue import read_queue
from mist_ops.study import Study

from .browsing import get, post


def where(study: Study) -> list[str]:
    return ["--results", str(study.results), "--numpy", str(study.numpy)]


@pytest.fixture
def study(copied_study: Study) -> Study:
    return register(copied_study.results, numpy=copied_study.numpy, data=copied_study.data, name="reviewed")


def own_mask(study: Study, folder: Path, patient: str) -> Path:
    """Give a patient a mask of its own, with the same content."""
    case = read_train_paths(study.train_paths)[patient]
    mask = folder / "mask.nii.gz"
    shutil.copy2(str(case.mask), mask)
    table = study.train_paths
    table.write_text(table.read_text().replace(os.path.relpath(str(case.mask), table.parent), str(mask)))
    return mask


def test_the_queue_is_written_once_reported_and_stale_with_a_mask(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not status(study).of("review")  # only some users want it
    assert cli.review([*where(study), "--length", "2"]) == 0
    entries = read_queue(study.review_queue)
    assert {entry.id for entry in entries} == set(read_train_paths(study.train_paths).fold_of)
    assert [entry.score for entry in entries] == sorted((entry.score for entry in entries), reverse=True)
    shown = capfd.readouterr().err
    assert "6 to review, 0 settled, 0 to correct" in shown
    assert f"  1. {entries[0].id}" in shown
    assert entries[0].reasons[0] in shown
    assert "4 more in " in shown
    made = study.review_queue.stat().st_mtime_ns
    assert cli.review(where(study)) == 0
    assert study.review_queue.stat().st_mtime_ns == made
    mask = own_mask(study, tmp_path, entries[0].id)
    labels, geometry = read_labels(mask)
    write_labels(mask, labels[::-1].copy(), geometry)
    assert set(status(study).of("review")) == {study.review_queue.name}
    assert cli.review(where(study)) == 0
    changed = next(entry for entry in read_queue(study.review_queue) if entry.id == entries[0].id)
    assert changed.mask == file_hash(mask) != entries[0].mask


def test_a_corrected_mask_can_be_retrained_from_the_present_weights(
    study: Study, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.review(where(study)) == 0
    first, second, *_ = (entry.id for entry in read_queue(study.review_queue))
    mask = own_mask(study, tmp_path, first)
    write_review(study.reviews, Review(second, "good", "", ""))
    assert post(addresses.reviews(study), {"id": first, "verdict": "fix mask", "note": "tail"}).status == 200
    assert read_reviews(study.reviews)[first].mask == file_hash(mask)
    capfd.readouterr()
    assert cli.review(where(study)) == 0
    shown = capfd.readouterr().err
    assert "4 to review, 1 settled, 1 to correct" in shown
    assert f"Waiting for a corrected mask, by reviews.csv: {first} (fix mask)." in shown
    assert "mist_plan" not in shown
    labels, geometry = read_labels(mask)
    labels[labels.shape[0] // 2] = 0
    write_labels(mask, labels, geometry)
    assert cli.review(where(study)) == 0
    shown = capfd.readouterr().err
    assert f"Corrected, and not yet in the models: {first}. Three ways on:" in shown
    assert "mask changed since the verdict 'fix mask'" in shown
    page = get(addresses.review(study)).text
    for words in ("--apply --warm-start", f"--stage preprocess --only {first} --reason"):
        assert words in shown
        assert words in page
    before = {fold: read_passport(study.model(fold)).weights for fold in (0, 1)}
    assert set(status(study).of("train")) == {"fold_0", "fold_1"}  # it trains one, and selects the weights of the other
    assert cli.plan([*where(study), "--apply", "--warm-start"]) == 0
    for fold, weights in before.items():
        started = read_passport(study.model(fold)).pretrained
        assert started
        assert (started.whole, started.weights) == (True, weights)
        assert started.passport
        assert started.passport.fold == fold
    assert status(study).current
    capfd.readouterr()
    assert cli.review(where(study)) == 0
    assert "Three ways on" not in capfd.readouterr().err


def test_the_page_lists_reasons_and_leads_to_the_place(study: Study) -> None:
    assert "mist_review" in get(addresses.review(study)).text
    assert cli.review(where(study)) == 0
    entries = read_queue(study.review_queue)
    answer = get(addresses.review(study))
    assert answer.status == 200
    places = [answer.text.index(f'data-id="{entry.id}"') for entry in entries]
    assert places == sorted(places)
    first = entries[0]
    assert first.place
    assert addresses.patient(study, first.id, first.place).replace("&", "&amp;") in answer.text
    assert addresses.picture(study, first.id) in answer.text
    assert get(addresses.patient(study, first.id), query=f"at={','.join(map(str, first.place))}").status == 200
    assert post(addresses.reviews(study), {"id": first.id, "verdict": "good", "note": ""}).status == 200
    assert f'data-id="{first.id}"' not in get(addresses.review(study)).text


def test_test_patients_are_ranked_by_the_disagreement_of_the_folds(
    study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.review([*where(study), "--tests", "--device", "cpu"]) == 0
    [entry] = read_queue(study.label_queue)
    assert "1 test patient by how much the models of the folds disagree" in capfd.readouterr().err
    assert entry.id in get(addresses.review(study)).text
    assert get(addresses.test_picture(study, entry.id)).content.startswith(b"\x89PNG")
    assert get(addresses.test_picture(study, "nobody")).status == 404
    assert status(study).current
    study.test_prediction(entry.id).unlink()
    assert "follows test" in status(study).of("label_next")[study.label_queue.name]
    assert cli.review([*where(study), "--tests"]) == 1
    assert "[predictions-missing]" in capfd.readouterr().err


@pytest.mark.parametrize(
    "command, flags, code",
    [
        (cli.train, ["--warm-start", "--resume"], "flags-contradict"),
        (cli.plan, ["--warm-start"], "flags-incomplete"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    study: Study, capfd: pytest.CaptureFixture[str], command: object, flags: list[str], code: str
) -> None:
    assert command([*where(study), *flags]) == 1  # type: ignore[operator]
    assert f"[{code}]" in capfd.readouterr().err
