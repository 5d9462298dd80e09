"""TensorBoard beside the UI."""

import json
import shutil
import socket
import urllib.request
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mist_dagster.instance import tensorboard
from mist_dagster.instance.studies import register
from mist_dagster.provenance import asset_key
from mist_ops.study import Study

from .serving import free_port, serving, wait_until


def answer(address: str) -> Any:
    """What TensorBoard answers; None while it is not running."""
    try:
        with urllib.request.urlopen(address, timeout=30) as found:
            return json.load(found)
    except OSError:
        return None


@pytest.mark.slow
def test_the_ui_starts_and_ends_tensorboard_with_the_curves_of_its_studies(finished: Study) -> None:
    port, folder = free_port(), finished.results.parent
    address = f"http://127.0.0.1:{port}/data"
    with serving(folder / "dagster_home", folder / "ui.log", tensorboard_port=port):
        runs = wait_until(lambda: answer(f"{address}/runs"))
        assert sorted(runs) == ["phantoms/fold_0", "phantoms/fold_1"]
        curve = answer(f"{address}/plugin/scalars/scalars?run=phantoms/fold_0&tag=validation_loss")
        assert [step for _, step, _ in curve] == [1]
    assert answer(f"{address}/runs") is None


@pytest.mark.slow
def test_a_study_registered_later_is_shown(home: Path, finished: Study, tmp_path: Path) -> None:
    port = free_port()
    with tensorboard.serving(port, []):
        wait_until(lambda: answer(f"http://127.0.0.1:{port}/data/runs") is not None)
        shutil.copytree(finished.curves, tmp_path / "results" / "logs")
        register(tmp_path / "results", name="later")
        found = wait_until(lambda: answer(f"http://127.0.0.1:{port}/data/runs"))
    assert sorted(found) == ["later/fold_0", "later/fold_1"]


def test_a_port_in_use_disables_tensorboard_with_a_note(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with tensorboard.serving(port, []):
            pass
    note = capsys.readouterr().out
    assert str(port) in note
    assert "--tensorboard-port" in note
    assert not (home / "tensorboard.log").exists()


def test_port_0_disables_tensorboard(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tensorboard.serving(0, []):
        pass
    assert capsys.readouterr().out == ""
    assert not (home / "tensorboard.log").exists()


def test_registering_a_study_links_its_curves(home: Path) -> None:
    study = register(Path("results"), name="brains")
    assert (home / "tensorboard" / "brains").readlink() == study.curves


def test_the_metadata_of_a_fold_links_to_its_curves(finished: Study, records: dg.DagsterInstance) -> None:
    record = records.get_latest_materialization_event(asset_key(finished, "fold_model"))
    assert record is not None
    assert record.asset_materialization is not None
    link = record.asset_materialization.metadata["TensorBoard page"]
    assert isinstance(link, dg.UrlMetadataValue)
    assert link.value == "/tensorboard?runFilter=%5Ephantoms/%28fold_1%7Cfold_1_attempt%29%24"
