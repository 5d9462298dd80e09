"""The commands that measure, as users chain them, and what is on record of each afterwards."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import registered_studies
from mist_dagster.stages import TOOLS
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.evaluation.table import read_pairs, write_pairs
from mist_ops.imaging.nifti import read_labels
from mist_ops.imaging.vectors import read_values
from mist_ops.study import Study

STRATEGY = [
    {"transform": "remove_small_objects", "apply_to_labels": [-1], "per_label": True, "kwargs": {}},
]


@pytest.fixture
def strategy(home: Path) -> Path:
    """A strategy file in the folder of a test."""
    path = Path("strategy.json")
    path.write_text(json.dumps(STRATEGY))
    return path


def record(tool: str, output: str) -> dict[str, Any]:
    """The metadata of the last output of a tool."""
    key, partition = dg.AssetKey(["tools", tool]), str(Path(output).resolve())
    with instance() as opened:
        found = opened.fetch_materializations(dg.AssetRecordsFilter(key, asset_partitions=[partition]), limit=1)
    assert found.records, f"nothing on record of {tool} {output}"
    made = found.records[0].asset_materialization
    assert made is not None
    return {name: value.value for name, value in made.metadata.items()}


def test_no_tool_needs_an_output_of_another() -> None:
    graph = build_definitions([], tools=TOOLS).resolve_asset_graph()
    assert {key.path[-1] for key in graph.get_all_asset_keys()} == set(TOOLS)
    # The UI warns of upstream assets that were never materialized, and inputs may come from elsewhere.
    assert not any(graph.get(key).parent_keys for key in graph.get_all_asset_keys())


def evaluate(study: Study, paths: str, output: str) -> int:
    return cli.evaluate(["--config", str(study.config), "--paths-csv", paths, "--output-csv", output])


def test_a_ranking_tells_which_scores_masks_and_predictions_it_was_made_from(finished: Study, strategy: Path) -> None:
    assert evaluate(finished, str(finished.evaluation_paths), "raw.csv") == 0
    base = [
        "--base-predictions",
        str(finished.cv_predictions),
        "--output",
        "pp",
        "--postprocess-strategy",
        str(strategy),
    ]
    assert (
        cli.postprocess([*base, "--paths-csv", str(finished.train_paths), "--eval-config", str(finished.config)]) == 0
    )
    assert sorted(path.name for path in Path("pp").iterdir() if path.suffix in (".csv", ".json")) == [
        "postprocess_paths.csv", "postprocess_results.csv", "postprocess_results_summary.json", "strategy.json",
    ]  # fmt: skip
    assert cli.rank(["--results", "raw.csv", "pp/postprocess_results.csv", "--output-csv", "ranking.csv"]) == 0

    origins = record("ranking", "ranking.csv")["provenance"]
    assert len(origins) == 2
    scores = origins[f"tools/evaluation [{Path('pp/postprocess_results.csv').resolve()}]"]
    assert not scores["changed since"]
    assert len(scores["inputs"]["masks"]) == len(read_train_paths(finished.train_paths).cases)
    [masks] = scores["provenance"].values()
    assert list(masks["inputs"]["strategy"]) == [str(strategy.resolve())]
    assert set(masks["inputs"]["predictions"]) == {str(path) for path in finished.cv_predictions.glob("*.nii.gz")}


def test_the_origin_in_a_study_is_found_and_an_altered_file_is_told(
    finished: Study, records: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [study.name for study in registered_studies()] == ["phantoms"]
    assert evaluate(finished, str(finished.evaluation_paths), "raw.csv") == 0
    Path("raw.csv").write_text(Path("raw.csv").read_text().replace("0.", "0.1"))
    results = ["--results", "raw.csv", str(finished.results_csv), "--output-csv", "ranking.csv"]
    assert cli.rank(results) == 0
    origins = record("ranking", "ranking.csv")["provenance"]
    assert set(origins["phantoms/evaluation"]["inputs"]["models"]) == {str(finished.model(fold)) for fold in (0, 1)}
    altered = origins[f"tools/evaluation [{Path('raw.csv').resolve()}]"]
    assert altered["changed since"]
    case = read_train_paths(finished.train_paths).cases[0].id
    assert f"phantoms/cv_prediction [{case}]" in altered["provenance"]


def test_a_strategy_is_checked_before_anything_is_made(
    finished: Study, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = [{**STRATEGY[0], "kwargs": {"small_object_treshold": 5}}]
    Path("strategy.json").write_text(json.dumps(wrong))
    base = ["--base-predictions", str(finished.cv_predictions), "--output", "pp"]
    assert cli.postprocess([*base, "--postprocess-strategy", "strategy.json"]) == 1
    assert "Did you mean 'small_object_threshold'" in " ".join(capfd.readouterr().err.split())
    assert not Path("pp").exists()


def test_describe_needs_no_other_flag_and_is_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.postprocess(["--describe"]) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["fill_holes_with_label"]["kwargs"]["fill_holes_label"]["default"] == 0


def test_a_patient_that_cannot_be_scored_has_an_empty_row_a_reason_and_costs_the_status(
    finished: Study, home: Path, tmp_path: Path
) -> None:
    pairs = read_pairs(finished.evaluation_paths)
    first = pairs[0].id
    write_pairs(Path("paths.csv"), [replace(pairs[0], prediction=tmp_path / "missing.nii.gz"), *pairs[1:]])
    assert evaluate(finished, "paths.csv", "scores.csv") == 1
    rows = Path("scores.csv").read_text().splitlines()
    assert rows[1].strip(",") == first
    summary = json.loads(Path("scores_summary.json").read_text())
    assert "missing.nii.gz" in json.dumps(summary)
    assert len(rows) == len(pairs) + 6


def test_models_predict_probabilities_that_are_combined_to_their_masks(finished: Study, strategy: Path) -> None:
    cases = read_train_paths(finished.train_paths).cases[:2]
    names = list(cases[0].images)
    rows = [",".join([case.id, *(str(case.images[name]) for name in names)]) for case in cases]
    Path("paths.csv").write_text("\n".join([",".join(["id", *names]), *rows]))
    models = ["--models-dir", str(finished.models), "--config", str(finished.config), "--paths-csv", "paths.csv"]
    assert cli.predict([*models, "--output", "probs", "--device", "cpu", "--output-probs"]) == 0
    with_strategy = ["--postprocess-strategy", str(strategy)]
    assert cli.predict([*models, "--output", "masks", "--device", "cpu", *with_strategy]) == 0
    volumes = list(read_values(Path("probs/probabilities") / f"{cases[0].id}.nii.gz"))
    assert len(volumes) == len(read_config(finished.config).dataset_info.labels)
    Path("again").symlink_to("probs", target_is_directory=True)
    Path("other").mkdir()
    for case in cases:
        source = Path("probs/probabilities") / f"{case.id}.nii.gz"
        (Path("other") / source.name).write_bytes(source.read_bytes())
    folders = ["--predictions", "probs/probabilities", "other", "--output", "both"]
    combined = [*folders, "--input-type", "probabilities", "--config", str(finished.config)]
    assert cli.ensemble(combined) == 0
    for case in cases:
        name = f"{case.id}.nii.gz"
        assert (read_labels(Path("both") / name)[0] == read_labels(Path("probs/discrete") / name)[0]).all()
    assert any("tools/prediction" in origin for origin in record("ensemble", "both")["provenance"])


def test_labels_are_combined_and_probabilities_need_a_config(
    finished: Study, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("other").mkdir()
    for path in finished.cv_predictions.glob("*.nii.gz"):
        (Path("other") / path.name).write_bytes(path.read_bytes())
    folders = ["--predictions", str(finished.cv_predictions), "other", "--output", "both"]
    assert cli.ensemble([*folders, "--ensemble-backend", "majority_vote"]) == 0
    assert len(list(Path("both").glob("*.nii.gz"))) == len(list(Path("other").iterdir()))
    assert cli.ensemble([*folders, "--input-type", "probabilities"]) == 1
    assert "[flags-incomplete]" in capfd.readouterr().err


def test_finalize_scores_what_the_models_predict_and_names_folds_without_models(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    where = ["--results", str(study.results), "--device", "cpu"]
    study.results_csv.unlink()
    assert cli.finalize(where) == 0
    assert len(study.results_csv.read_text().splitlines()) == 1 + 6 + 5
    study.model(1).unlink()
    assert cli.finalize(where) == 1
    assert "[folds-untrained]" in capfd.readouterr().err


def test_a_strategy_is_chosen_from_the_cross_validation(copied_study: Study) -> None:
    study = copied_study
    assert cli.choose_postprocessing(["--results", str(study.results)]) == 0
    found = json.loads(study.strategy_search.read_text())
    assert json.loads(study.strategy.read_text()) == found["strategy"]
    assert found["after"] >= found["before"]
    assert found["trials"]


def test_tables_become_a_dataset_that_is_described_as_it_is_analyzed(finished: Study, home: Path) -> None:
    cases = read_train_paths(finished.train_paths).cases
    names = list(cases[0].images)
    rows = [",".join([case.id, str(case.mask), *map(str, case.images.values())]) for case in cases]
    Path("train.csv").write_text("\n".join([",".join(["id", "mask", *names]), *rows]))
    assert cli.convert_csv(["--train-csv", "train.csv", "--output", "data"]) == 0
    data = Path("data/dataset.json")
    data.write_text(json.dumps({**json.loads(data.read_text()), "task": "T", "modality": "mr"}))
    assert cli.convert_csv(["--train-csv", "train.csv", "--output", "data"]) == 1
    assert cli.analyze(["--data", str(data), "--nfolds", "2", "--data-dump"]) == 0
    dump = json.loads(Path("results/data_dump.json").read_text())
    assert dump["dataset_summary"]["num_patients"] == len(cases)
    assert Path("results/data_dump.md").read_text().startswith("#")


def test_a_metric_of_an_installed_plugin_is_scored_and_ranked_and_nothing_loads_torch(
    finished: Study, home: Path
) -> None:
    installed = Path("site/plugin-1.0.dist-info")
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[mist_ops.plugins]\nmine = plugin_metrics\n")
    Path("site/plugin_metrics.py").write_text(
        "from mist_ops.metrics import Metric\n"
        "from mist_ops.registry import METRICS\n"
        "METRICS.register('predicted_voxels')(Metric(lambda pair: pair.prediction_voxels, 0.0, 0.0, '', True, True))\n"
    )
    Path("config.json").write_text(json.dumps({"whole": {"labels": [1, 2], "metrics": {"predicted_voxels": {}}}}))
    code = (
        "import sys\n"
        "from mist_dagster import cli\n"
        "for name in 'ab':\n"
        "    scored = ['--config', 'config.json', '--paths-csv', sys.argv[1], '--output-csv', name + '.csv']\n"
        "    assert cli.evaluate(scored) == 0\n"
        "assert cli.rank(['--results', 'a.csv', 'b.csv', '--output-csv', 'ranking.csv']) == 0\n"
        "assert not {'torch', 'monai'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(finished.evaluation_paths)]
    environment = {**os.environ, "PYTHONPATH": str(Path("site").resolve())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    voxels = int((read_labels(next(iter(sorted(finished.cv_predictions.iterdir()))))[0] > 0).sum())
    assert f",{float(voxels)}" in Path("a.csv").read_text()
    assert Path("ranking.csv").read_text().splitlines()[1:] == ["a,1.5", "b,1.5"]
