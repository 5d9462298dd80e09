from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from expect import refuses

from mist_ops.conversion.patients import Patient, channel_problems, refuse_existing, write_patient
from mist_ops.errors import CaseError, DatasetError


@dataclass(frozen=True)
class Refusal:
    """Write a file, then raise."""

    error: Exception

    def __call__(self, folder: Path) -> None:
        (folder / "half.nii.gz").write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize(
    "error, raised", [(DatasetError("no mask", code="mask-missing"), CaseError), (OSError("disk full"), OSError)]
)
def test_a_patient_that_fails_leaves_no_folder(tmp_path: Path, error: Exception, raised: type[Exception]):
    patient = Patient("p", tmp_path / "train" / "p", True)
    with pytest.raises(raised, match=error.args[0]):
        write_patient(patient, Refusal(error))
    assert not list((tmp_path / "train").iterdir())


@pytest.mark.parametrize("name", ["T1", "t1-gd", "2nd", "my img", "FLAIR+C", "Größe", "b1000.adc"])
def test_safe_names_of_channels_are_accepted(name: str):
    assert channel_problems([name]) == []


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a\\b", "line\nbreak", "t1 ", "x" * 200])
def test_unsafe_names_of_channels_are_refused(name: str):
    [problem] = channel_problems([name])
    assert (problem.code, problem.found) == ("channel-unsafe", name)


def test_reserved_and_duplicate_names_of_channels_are_refused():
    problems = channel_problems(["mask", "T1", "ID", "t1"])
    assert [(problem.code, problem.found) for problem in problems] == [
        ("channel-reserved", "mask"),
        ("channel-reserved", "ID"),
        ("channel-duplicate", "t1"),
    ]


def test_an_output_folder_is_refused_if_it_holds_a_dataset(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    refuse_existing(tmp_path, overwrite=False)
    (tmp_path / "raw").mkdir()
    with refuses("output-exists", DatasetError, file=tmp_path, found=["raw"]):
        refuse_existing(tmp_path, overwrite=False)
    refuse_existing(tmp_path, overwrite=True)
