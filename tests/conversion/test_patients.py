from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mist_ops.conversion.patients import Patient, channel_problems, refuse_existing, write_patient
from mist_ops.errors import CaseError, DatasetError


@dataclass(frozen=True)
class Refusal:
    """Writes a file, and then finds that another cannot be written."""

    error: Exception

    def __call__(self, folder: Path) -> None:
        (folder / "half.nii.gz").write_bytes(b"half")
        raise self.error


def test_a_patient_takes_its_place_when_whole(tmp_path: Path):
    patient = Patient("p", tmp_path / "train" / "p", True)
    patient.folder.mkdir(parents=True)
    (patient.folder / "old.nii.gz").touch()
    assert write_patient(patient, lambda folder: (folder / "new.nii.gz").write_bytes(b"new")) == 3
    assert [path.name for path in patient.folder.iterdir()] == ["new.nii.gz"]
    assert [path.name for path in patient.folder.parent.iterdir()] == ["p"]


@pytest.mark.parametrize("error, raised", [(DatasetError("no mask"), CaseError), (OSError("disk full"), OSError)])
def test_of_a_patient_that_fails_nothing_is_left(tmp_path: Path, error: Exception, raised: type[Exception]):
    patient = Patient("p", tmp_path / "train" / "p", True)
    with pytest.raises(raised, match=str(error)):
        write_patient(patient, Refusal(error))
    assert not list((tmp_path / "train").iterdir())


@pytest.mark.parametrize("name", ["T1", "t1-gd", "2nd", "my img", "FLAIR+C", "Größe", "b1000.adc"])
def test_any_name_of_a_file_may_name_a_channel(name: str):
    assert channel_problems([name]) == []


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a\\b", "line\nbreak", "t1 ", "x" * 200, "mask", "ID"])
def test_other_names_are_told(name: str):
    [problem] = channel_problems([name])
    assert repr(name) in problem


def test_only_what_would_be_replaced_refuses_an_output_folder(tmp_path: Path):
    (tmp_path / "notes.txt").touch()
    refuse_existing(tmp_path, overwrite=False)
    (tmp_path / "raw").mkdir()
    with pytest.raises(DatasetError, match="holds raw already"):
        refuse_existing(tmp_path, overwrite=False)
    refuse_existing(tmp_path, overwrite=True)
