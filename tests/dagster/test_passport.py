"""``mist_passport`` on a finished study."""

import json
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.files import write_json
from mist_ops.records.passport import read_passport
from mist_ops.study import Study


def verify(study: Study) -> int:
    return cli.passport(["verify", str(study.model(0)), "--numpy", str(study.numpy)])


def test_verify_lists_changed_arrays_settings_and_weights(
    copied_study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    assert verify(study) == 0
    assert "matches its passport" in capsys.readouterr().out

    assignment = read_train_paths(study.train_paths)
    trained, *_ = (case.id for case in assignment.cases if assignment.fold_of[case.id] != 0)
    record = json.loads(study.geometry(trained).read_text())
    write_json(study.geometry(trained), {**record, "content": "another", "arrays": {}})
    write_config(study.config, override(read_config(study.config), {"training.epochs": 7}))
    study.model(0).write_bytes(study.model(1).read_bytes())
    assert verify(study) == 1
    printed = capsys.readouterr().out
    assert f"The arrays of {trained} (training) changed." in printed
    assert "epochs was 1 and is 7" in printed
    assert f"{study.model(0)} do not match the passport" in printed


def test_two_folds_differ_in_their_patients(finished: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.passport(["diff", str(finished.model(0)), str(finished.model(1))]) == 0
    printed = capsys.readouterr().out
    assert "Only A trains on" in printed
    assert "fold is 0 for A and 1 for B." in printed
    hardware = read_passport(finished.model(0)).hardware
    assert hardware is not None
    assert hardware.peak_memory > 2**20


def test_weights_without_a_passport_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.passport(["verify", "none.pt"]) == 1
    assert "[passport-missing]" in capsys.readouterr().err
