"""Replicas: a study trained with other seeds by one command, on the same arrays and folds, as assets of their own."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.status import status
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register, registered_studies
from mist_dagster.provenance import SHARED, asset_key
from mist_ops.config import override, read_config, write_config
from mist_ops.records.passport import read_passport
from mist_ops.replicas import replicate
from mist_ops.study import Study


@pytest.fixture
def study(sound: Path, home: Path, tmp_path: Path) -> Study:
    """A copy of a trained study of two folds, without a replica."""
    for part in ("data", "numpy", "results"):
        shutil.copytree(sound / part, tmp_path / part)
    return register(tmp_path / "results", numpy=tmp_path / "numpy", name="sound")


def train(study: Study, *flags: str) -> int:
    return cli.train(["--results", str(study.results), "--device", "cpu", "--no-figures", *flags])


def test_one_command_trains_predicts_and_scores_a_replica(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in study.models.iterdir()}
    assert train(study, "--seeds", "42", "7") == 0
    replica = study.replica(7)
    assert {path: path.read_bytes() for path in study.models.iterdir()} == before, "the original was trained again"
    assert [each.results for each in study.replicas] == [replica.results]
    assert replica.results_csv.is_file()
    for fold in (0, 1):
        mine, other = read_passport(study.model(fold)), read_passport(replica.model(fold))
        assert (mine.seed, other.seed) == (42, 7)
        assert mine.weights != other.weights
        assert (mine.content, mine.held_out) == (other.content, other.held_out)
    assert not (replica.results / "train_paths.csv").exists()
    capfd.readouterr()

    # Nothing is left to do, for a command as for the status.
    assert train(study, "--seeds", "42", "7") == 0
    assert cli.status(["--results", str(study.results)]) == 0
    assert "Seed 7: everything is current." in capfd.readouterr().err

    # Its assets are its own from the training on, and depend on the arrays of the original.
    with instance() as opened:
        graph = build_definitions([study, replica]).resolve_asset_graph()
        assert asset_key(study, "preprocessed_case") in graph.get(asset_key(replica, "training_set")).parent_keys
        assert asset_key(study, "training_settings") in graph.get(asset_key(replica, "training_settings")).parent_keys
        keys = [key for key in graph.get_all_asset_keys() if key.path[0] == replica.key]
        assert not SHARED & {key.path[-1] for key in keys}
        assert opened.get_materialized_partitions(asset_key(replica, "fold_model")) == {"fold_0", "fold_1"}
        assert opened.get_latest_materialization_event(asset_key(replica, "evaluation"))

    # A change of the settings of the original makes both stale.
    write_config(study.config, override(read_config(study.config), {"training.learning_rate": 0.01}))
    found = status(replica)
    assert set(found.of("train")) == {"fold_0", "fold_1"}
    assert "learning_rate" in found.of("train")["fold_0"]
    assert cli.status(["--results", str(study.results), "--json"]) == 0
    known = json.loads(capfd.readouterr().out)
    assert list(known["replicas"]["7"]["stale"]) == ["train", "predict", "evaluate", "test"]


def test_a_plan_trains_a_replica_that_is_new(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.models.iterdir()}
    replica = replicate(study, 7)
    assert cli.plan(["--results", str(study.results), "--device", "cpu", "--apply"]) == 0
    assert status(replica).current
    assert {read_passport(replica.model(fold)).seed for fold in (0, 1)} == {7}
    assert {path: path.read_bytes() for path in study.models.iterdir()} == before


def compared(folder: Path, name: str, gain: float, seeds: tuple[int, ...] = (7, 8)) -> Path:
    """The results of a study of twenty patients and its replicas, without models."""
    results = folder / name
    for place, path in enumerate([results, *(results / "replicas" / f"seed_{seed}" for seed in seeds)]):
        generator = random.Random(f"{name}{place}")
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"replica": {"seed": place}}))
        shift = generator.gauss(gain, 0.004)
        lines = [f"p{case:02d},{0.6 + case / 100 + shift + generator.gauss(0, 0.01):.5f}" for case in range(20)]
        (path / "results.csv").write_text("\n".join(["id,lesion_dice", *lines]) + "\n")
    return results


def test_a_comparison_is_an_asset_with_its_verdicts_and_checks(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, other = compared(tmp_path, "one", 0.0), compared(tmp_path, "other", -0.05)
    output = tmp_path / "comparison.csv"
    assert cli.compare([str(one), str(other), "--output-csv", str(output)]) == 0
    assert "other is worse than one: -0.0" in capfd.readouterr().err
    assert (tmp_path / "comparison_facts.json").is_file()
    key = dg.AssetKey(["tools", "comparison"])
    with instance() as opened:
        event = opened.get_latest_materialization_event(key)
        assert event
        assert event.asset_materialization
        shown = {name: value.value for name, value in event.asset_materialization.metadata.items()}
        assert "other is worse" in str(shown["verdicts"])
        assert shown["runs"] == {"one": 3, "other": 3}
        assert len(shown["inputs"]["side 1"]) == 3
        found = opened.event_log_storage.get_latest_asset_check_execution_by_key(
            [dg.AssetCheckKey(key, name) for name in ("not_worse", "runs_known")]
        )
        evaluations = [record.event.dagster_event.asset_check_evaluation_data for record in found.values()]
        passed = {evaluation.check_name: evaluation.passed for evaluation in evaluations}
    assert passed == {"not_worse": False, "runs_known": True}


def test_a_comparison_without_two_methods_writes_nothing(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = compared(tmp_path, "one", 0.0)
    assert cli.compare([str(one)]) == 1
    assert "[too-few-inputs]" in capfd.readouterr().err
    assert cli.compare([str(one), str(tmp_path / "gone")]) == 1
    assert "[table-missing]" in capfd.readouterr().err
    assert not (tmp_path / "comparison.csv").exists()


@pytest.mark.parametrize(
    "flags, code",
    [
        (["--seeds", "7", "7"], "seed-duplicate"),
        (["--redraw-validation"], "flags-incomplete"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(
    study: Study, flags: list[str], code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(study, *flags) == 1
    assert f"[{code}]" in capfd.readouterr().err
    assert not study.replicas_folder.exists()


def test_a_replica_has_no_settings_and_no_replicas_of_its_own(study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    replica = replicate(study, 7)
    assert read_config(replica.config) == override(
        read_config(study.config), {"training.seed": 7, "training.validation_seed": 42}
    )
    where = ["--results", str(replica.results), "--device", "cpu"]
    assert cli.train([*where, "--seeds", "8"]) == 1
    assert "[replica-of-replica]" in capfd.readouterr().err
    assert cli.train([*where, "--epochs", "3"]) == 1
    assert "[replica-settings]" in capfd.readouterr().err
    assert read_config(study.config).training.epochs == 1
    assert cli.status([*where[:2], "--study", "other"]) == 1
    assert "[study-registered]" in capfd.readouterr().err
    assert register(replica.results).name == "sound_seed_7"
    assert {each.name for each in registered_studies()} == {"sound", "sound_seed_7"}
    # The validation cases of a replica may be drawn again on request.
    assert read_config(replicate(study, 9, redraw=True).config).training.seed_of_validation == 9
