"""What a change would make stale is what it makes stale, and nothing is changed to find out."""

import json
import shutil
from dataclasses import replace

import pytest
from expect import refuses

from mist_dagster import cli
from mist_dagster.freshness.status import as_json, status
from mist_ops.analysis.analyze import analyze
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash
from mist_ops.study import Study


@pytest.mark.parametrize(
    "path, value",
    [
        ("training.epochs", 2),
        ("training.loss.name", "dice"),
        ("preprocessing.compute_dtms", True),
        ("spatial_config.target_spacing", [1.5, 1.5, 1.5]),
        ("evaluation.core.metrics", {"dice": {}}),
        ("training.hardware.num_cpu_workers", 1),
    ],
)
def test_a_setting(copied_study: Study, path: str, value: object) -> None:
    study = copied_study
    before = file_hash(study.config)
    predicted = status(study, what_if=[f"{path}={value if isinstance(value, str) else json.dumps(value)}"])
    assert file_hash(study.config) == before
    write_config(study.config, override(read_config(study.config), {path: value}))
    assert predicted.stale == status(study).stale


@pytest.fixture
def own_data(copied_study: Study) -> Study:
    """A finished study with a dataset that a test may change."""
    folder = copied_study.results.parent / "data"
    source = folder.resolve()
    folder.unlink()
    shutil.copytree(source, folder)
    return replace(copied_study, data=folder / "dataset.json")


def test_a_patient_that_goes(own_data: Study) -> None:
    study = own_data
    assert status(study).stale == {}
    gone = read_train_paths(study.train_paths).cases[0].id
    predicted = status(study, what_if=[f"remove={gone}"])
    assert set(predicted.stale["train"]) == {"fold_0", "fold_1"}  # it trained one, and chose the weights of the other
    assert predicted.stale["analyze"] == {gone: "gone"}
    assert predicted.stale.keys() == {"analyze", "train", "predict", "evaluate", "choose_postprocessing", "test"}
    shutil.rmtree(study.data.parent / "train" / gone)  # type: ignore[union-attr]
    assert status(study).stale == predicted.stale
    list(analyze(study))
    assert status(study).stale == {name: keys for name, keys in predicted.stale.items() if name != "analyze"}


@pytest.mark.parametrize(
    "change, code",
    [
        ("training.epochs", "what-if-invalid"),
        ("=2", "what-if-invalid"),
        ("remove=nobody", "unknown-patient"),
        ("trainings.epochs=2", "unknown-setting"),
        ("training.epoch=2", "unknown-key"),
        ("training.loss.name=dise", "unknown-loss"),
    ],
)
def test_an_impossible_change_is_refused(finished: Study, change: str, code: str) -> None:
    with refuses(code, ConfigError):
        status(finished, what_if=[change])


def test_the_command_reports_it_and_refuses_to_apply_it(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--results", str(copied_study.results), "--numpy", str(copied_study.numpy)]
    asked = [*where, "--what-if", "training.epochs=7", "--what-if", 'evaluation.core.metrics={"dice": {}}']
    assert cli.plan(asked) == 0
    shown = capfd.readouterr().err
    assert "epochs was 1 and is 7" in shown
    assert "Evaluate: results.csv" in shown
    assert cli.plan([*asked, "--apply"]) == 1
    assert "[flags-contradict]" in capfd.readouterr().err


def test_the_status_is_written_as_json(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    study = copied_study
    study.image(read_train_paths(study.train_paths).cases[0].id).unlink()
    assert cli.status(["--results", str(study.results), "--numpy", str(study.numpy), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["current"] is False
    assert found["stale"] == as_json(status(study))["stale"]
