from __future__ import annotations

import math
from pathlib import Path

import pytest

from mist_ops.config import EvaluationClass
from mist_ops.dataset import Assignment, Case
from mist_ops.evaluation.lesions import LesionRow
from mist_ops.evaluation.pages import MAX_LESIONS, Model, write_pages
from mist_ops.evaluation.score import CaseScores
from mist_ops.evaluation.standings import Ranking
from mist_ops.files import write_text
from mist_ops.study import Study

CLASSES = {"core": EvaluationClass(labels=[1], metrics={"dice": {}, "haus95": {}})}
SCORES = {"007": (0.5, 9.0), "a b": (0.9, 1.0), "index": (0.7, 4.0), "c": (0.8, math.nan)}
"""Dice and Hausdorff distance; lower Dice and larger distances are worse."""


def rows(name: str = "core") -> dict[str, CaseScores]:
    return {
        case_id: CaseScores({f"{name}_dice": dice, f"{name}_haus95": distance}, volumes={name: (2.0, 1.5)})
        for case_id, (dice, distance) in SCORES.items()
    }


def assignment(ids: list[str], folder: Path) -> Assignment:
    cases = [Case(case_id, {"t1": folder / case_id / "t1.nii.gz"}, folder / case_id / "seg.nii.gz") for case_id in ids]
    return Assignment(tuple(cases), {case.id: index % 2 for index, case in enumerate(cases)})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study("brain", numpy=tmp_path / "numpy", results=tmp_path / "results")


def written(study: Study, case_id: str, scored: dict[str, CaseScores] | None = None) -> str:
    """The page of a patient, as text."""
    scored = scored or rows()
    patients = assignment(list(scored), study.results.parent / "data")
    write_pages(study, "brain tumor", patients, CLASSES, scored, {"007": Model("0a1b2c3d4e5f67", 87, 100)})
    return study.patient_page(case_id).read_text(encoding="utf-8")


def test_a_page_shows_scores_with_median_and_rank_the_model_and_the_volumes(study: Study) -> None:
    page = written(study, "007")
    assert all(text in page for text in ("0.500", "0.750", "9.000 mm", "4.000 mm", "worst of 4", "worst of 3"))
    assert all(text in page for text in ("best epoch <b>87</b> of 100", ">0a1b2c3d4e5f<", "-0.50 ml (-25 %)"))
    assert "a model without a passport" in written(study, "c")


def test_the_index_lists_the_worst_first_and_pages_link_to_their_neighbors(study: Study) -> None:
    page = written(study, "index")
    index = study.patient_index.read_text(encoding="utf-8")
    places = [index.index(f"<strong>{case_id}</strong>") for case_id in ("007", "index", "c", "a b")]
    assert places == sorted(places)
    assert '<a rel="prev" href="007.html">' in page
    assert '<a rel="next" href="c.html">' in page
    assert '<a rel="next" href="a%20b.html">' in written(study, "c")


def test_links_are_relative_and_pages_need_no_script_and_no_network(study: Study) -> None:
    write_text(study.cv_figure("a b"), "a picture")
    page = written(study, "a b")
    assert 'src="../cv_a%20b.png"' in page
    assert '<a href="../../predictions/train/raw/a%20b.nii.gz">' in page
    assert '<a href="../../../data/a%20b/seg.nii.gz">' in page
    assert str(study.results) not in page
    assert not [word for word in ("<script", "http:", "https:", "@import", "url(") if word in page]
    assert "No picture" in written(study, "c")


def test_text_is_escaped(study: Study) -> None:
    name = '<b class="x">&amp;'
    patients = assignment(list(SCORES), study.results)
    write_pages(study, "<i>task</i>", patients, {name: CLASSES["core"]}, rows(name), {})
    for page in (study.patient_page("c"), study.patient_index):
        text = page.read_text(encoding="utf-8")
        assert "&lt;b class=&#34;x&#34;&gt;&amp;amp;" in text
        assert "&lt;i&gt;task&lt;/i&gt;" in text
        assert name not in text
        assert "<i>task</i>" not in text


def test_pages_of_removed_patients_are_removed(study: Study) -> None:
    written(study, "007")
    scored = rows()
    del scored["c"]
    written(study, "007", scored)
    names = {path.name for path in study.patient_index.parent.iterdir()}
    assert names == {"007.html", "a b.html", "_index.html", "index.html"}
    assert [path.name for path in study.patient_index.parent.parent.iterdir()] == ["patients"]


def test_the_largest_lesions_are_shown_and_the_rest_counted(study: Study) -> None:
    lesions = [
        LesionRow("core", "truth", number, 1000.0 * number, 0, 0.0, 50.0, 0.0, "FN", "lesion_wise_f1")
        for number in range(1, MAX_LESIONS + 3)
    ]
    page = written(study, "007", {"007": CaseScores(rows()["007"].scores, lesions=tuple(lesions))})
    assert page.count('class="bad">FN<') == MAX_LESIONS
    assert "32.0 ml" in page
    assert "2.000 ml" not in page
    assert '2 more are in <a href="../../results_lesions.csv">' in page


def test_a_study_without_scores_has_an_empty_index(study: Study) -> None:
    write_pages(study, "brain", assignment([], study.results), CLASSES, {}, {})
    assert "<b>0</b> patients" in study.patient_index.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "values, rank",
    [
        ([1, 2, 3, 4, 5], "worst of 5"),
        ([2, 1, 3, 4, 5], "2nd worst of 5"),
        ([5, 5, 1, 2, 3], "best of 5, tied with 1"),
        ([11, *range(1, 11), *range(12, 30)], "11th worst of 29"),
        ([22, *range(1, 22), *range(23, 60)], "22nd worst of 59"),
        ([4, 4, 4], "the same in all 3"),
        ([4, math.nan], "the only one"),
        ([math.nan, 1], "None"),
    ],
)
def test_a_rank_is_counted_from_the_nearer_end(values: list[float], rank: str) -> None:
    ranking = Ranking({str(place): float(value) for place, value in enumerate(values)})
    assert str(ranking.standing("0")) == rank


def test_the_worst_quarter_is_low(study: Study) -> None:
    ranking = Ranking({str(value): float(value) for value in range(8)})
    standings = [ranking.standing(str(value)) for value in range(8)]
    assert [standing is not None and standing.is_low for standing in standings] == [True] * 2 + [False] * 6
