"""The table of stages: what one more row gives, and which files belong to which row."""

from pathlib import Path

import dagster as dg
import pytest

from mist_dagster import cli
from mist_dagster.definitions import build_definitions, defs
from mist_dagster.freshness.status import report, status
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import register
from mist_dagster.lineage import provenance_of
from mist_dagster.pipeline import Work, in_order
from mist_dagster.provenance import asset_key
from mist_dagster.stages import STAGES, WHOLE, Stage, check_keys
from mist_ops.config import override, read_config, write_config
from mist_ops.files import file_hash
from mist_ops.study import Study


@pytest.fixture
def summarized(copied_study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with one more stage after evaluation: its module, its row, its path."""
    row = Stage(
        name="summarize",
        assets=["summary"],
        description="Summarize the scores.",
        module="added_stage",
        action="Summarize",
        sections=["evaluation"],
        locate=lambda study, _: study.results / "summary.txt",
        reads=lambda seen: {"results.csv": file_hash(seen.study.results_csv)},
        follows=["evaluate"],
    )
    monkeypatch.setitem(STAGES, "summarize", row)
    return copied_study


def test_dagster_loads_the_code_location_of_a_study(home: Path, tmp_path: Path) -> None:
    """It loads all jobs, and no job may have the name of an operation."""
    register(tmp_path / "results", name="study")
    defs().get_repository_def().load_all_definitions()


def where(study: Study) -> list[str]:
    return ["--results", str(study.results), "--numpy", str(study.numpy)]


def test_a_stage_after_evaluation_is_tracked_rebuilt_and_reported(summarized: Study) -> None:
    study = summarized
    assert list(report(status(study))) == ["Summarize: summary.txt: missing."]
    assert cli.plan([*where(study), "--apply"]) == 0
    assert (study.results / "summary.txt").read_text().startswith("id,")
    assert status(study).current
    study.results_csv.write_text(study.results_csv.read_text() + "\n")
    assert status(study).of("summarize") == {"summary.txt": "results.csv changed"}
    assert cli.plan([*where(study), "--apply"]) == 0
    classes = {"all": {"labels": [1, 2], "metrics": {"dice": {}}}}
    write_config(study.config, override(read_config(study.config), {"evaluation": classes}))
    assert status(study).of("summarize") == {"summary.txt": "it follows evaluate, which needs a run"}
    assert cli.plan([*where(study), "--apply"]) == 0
    assert (study.results / "summary.txt").read_text() == "id,all_dice"
    assert status(study).current


def test_a_stage_after_evaluation_is_checked_recorded_and_found_by_its_file(summarized: Study) -> None:
    study = register(summarized.results, numpy=summarized.numpy, data=summarized.data)
    definitions = build_definitions([study])
    key = asset_key(study, "summary")
    assert dg.AssetCheckKey(key, "in_sync") in check_keys(study)
    assert definitions.resolve_job_def(f"{study.key}__summarize")
    with instance() as opened:
        build_definitions([study]).resolve_job_def(f"{study.key}__status").execute_in_process(instance=opened)
        latest = opened.event_log_storage.get_latest_asset_check_execution_by_key([dg.AssetCheckKey(key, "in_sync")])
    assert [record.status.value for record in latest.values()] == ["FAILED"]
    assert cli.plan([*where(study), "--apply"]) == 0
    with instance() as opened:
        opened.wipe_assets([key])
    assert cli.status([*where(study), "--rebuild"]) == 0
    with instance() as opened:
        assert opened.get_latest_materialization_event(key)
        assert key.to_user_string() in provenance_of(opened, [study.results / "summary.txt"])


@pytest.mark.parametrize(
    "stage, path, partition",
    [
        ("train", "results/models/fold_1.pt", "fold_1"),
        ("train", "results/models/fold_1.json", None),
        ("train", "results/models/average.pt", None),
        ("predict", "results/predictions/train/raw/a.b.nii.gz", "a.b"),
        ("predict", "results/predictions/test/a.nii.gz", None),
        ("test", "results/predictions/test/a.nii.gz", "a"),
        ("preprocess", "numpy/images/007.npy", "007"),
        ("evaluate", "results/results.csv", WHOLE),
        ("evaluate", "results/other.csv", None),
    ],
)
def test_a_path_belongs_to_one_partition_of_one_stage(stage: str, path: str, partition: str | None) -> None:
    study = Study("s", numpy=Path("numpy"), results=Path("results"))
    assert STAGES[stage].partition_of(study, Path(path)) == partition


def test_a_fold_is_predicted_right_after_its_training() -> None:
    needed = {"evaluate": None, "train": ["fold_0", "fold_1"], "predict": ["a", "b", "c"], "test": ["t"]}
    assert list(in_order(needed, {"a": 0, "b": 1, "c": 2})) == [
        Work("train", ["fold_0"]),
        Work("predict", ["a"]),
        Work("train", ["fold_1"]),
        Work("predict", ["b"]),
        Work("predict", ["c"]),
        Work("evaluate"),
        Work("test", ["t"]),
    ]


def test_nothing_is_ordered_where_nothing_is_needed() -> None:
    assert list(in_order({"preprocess": [], "predict": []}, {})) == []
