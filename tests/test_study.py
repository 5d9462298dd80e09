from __future__ import annotations

from pathlib import Path

import pytest
from expect import refuses
from hypothesis import given
from hypothesis import strategies as st

from mist_ops.errors import DatasetError
from mist_ops.study import Study, check_id

STUDY = Study(name="brain", numpy=Path("numpy"), results=Path("results"))


@pytest.mark.parametrize("case_id", ["007", "BRATS_017", "sub-01_ses-1", "P 1.5T", "Ωmega+1@site", "Mu\u0308ller"])
def test_common_ids_are_accepted_unchanged(case_id: str) -> None:
    assert check_id(case_id) == case_id


@pytest.mark.parametrize(
    "case_id", ["", ".hidden", "../up", "a/b", "a..b", "a ", "a.", "-rf", "a\nb", "x" * 200, "ü" * 120]
)
def test_ids_that_cannot_name_a_file_are_refused(case_id: str) -> None:
    with refuses("id-unsafe", DatasetError):
        check_id(case_id)


@given(st.text(max_size=12))
def test_accepted_ids_stay_inside_their_folder(case_id: str) -> None:
    try:
        path = STUDY.image(case_id)
    except DatasetError:
        return
    assert path.parent == Path("numpy/images")
    assert path.resolve().parent == Path("numpy/images").resolve()


def test_files_have_the_names_of_the_reference() -> None:
    assert STUDY.config == Path("results/config.json")
    assert STUDY.model(3) == Path("results/models/fold_3.pt")
    assert STUDY.checkpoint(3) == Path("results/checkpoints/fold_3_checkpoint.pt")
    assert STUDY.label("007") == Path("numpy/labels/007.npy")
    assert STUDY.cv_prediction("007") == Path("results/predictions/train/raw/007.nii.gz")
    assert STUDY.test_prediction("007") == Path("results/predictions/test/007.nii.gz")
    assert STUDY.results_csv == Path("results/results.csv")


def test_the_page_of_a_patient_named_index_does_not_replace_the_index() -> None:
    assert STUDY.patient_page("007") == Path("results/figures/patients/007.html")
    pages = [STUDY.patient_page(case_id) for case_id in ("index", "Index", "index_")]
    assert len({str(path).lower() for path in (*pages[1:], STUDY.patient_index)}) == 3
    assert STUDY.patient_index not in pages


def test_an_id_with_a_dot_is_kept() -> None:
    assert STUDY.geometry("P1.5").name == "P1.5.json"
