"""Assets that a person selects together in one run: each does its work, or the run fails."""

from itertools import combinations

import dagster as dg
import pytest

from mist_dagster.definitions import build_definitions
from mist_dagster.instance.home import instance
from mist_dagster.provenance import asset_key
from mist_dagster.stages import STAGES, asset_names
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study

BY_PARTITIONS = {
    "patients": ["preprocessed_case", "cv_prediction"],
    "folds": ["training_set", "fold_model"],
    None: ["data_dump", "evaluation", "postprocessing_strategy"],
}
"""Assets that can be selected together, as Dagster runs one definition of partitions beside assets without any."""

PAIRS = [
    (partitions, pair)
    for partitions in ("patients", "folds")
    for pair in combinations([*BY_PARTITIONS[partitions], *BY_PARTITIONS[None]], 2)
    if set(pair) & set(BY_PARTITIONS[partitions])
] + [("test_patients", ("test_prediction", name)) for name in BY_PARTITIONS[None]]

SAMPLE = {
    ("preprocessed_case", "cv_prediction"),
    ("preprocessed_case", "data_dump"),
    ("cv_prediction", "evaluation"),
    ("training_set", "fold_model"),
    ("fold_model", "evaluation"),
    ("test_prediction", "postprocessing_strategy"),
}
"""Pairs that run with every change; each takes one to four seconds."""


def run_of(study: Study, names: tuple[str, ...], tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    keys = [asset_key(study, name) for name in names]
    config = {
        "ops": {
            f"{study.key}__{name}": {"config": {"device": "cpu"}}
            for name in names
            if name in ("fold_model", "cv_prediction", "test_prediction")
        }
    }
    definitions = build_definitions([study])
    job = dg.define_asset_job("selected", selection=dg.AssetSelection.assets(*keys))
    whole = dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))
    with instance() as opened:
        return whole.resolve_job_def("selected").execute_in_process(instance=opened, run_config=config, tags=tags)


@pytest.mark.parametrize(
    "partitions, names",
    [pair if pair[1] in SAMPLE else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_both_of_a_pair_are_made_for_one_partition(
    copied_study: Study, partitions: str, names: tuple[str, str]
) -> None:
    first = {
        "patients": read_train_paths(copied_study.train_paths).cases[0].id,
        "folds": "fold_0",
        "test_patients": "phantom_001",
    }[partitions]
    result = run_of(copied_study, names, {"dagster/partition": first})
    assert result.success
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert made >= set(names)
    assert [event for event in result.all_events if event.event_type_value == "STEP_SKIPPED"] == []


@pytest.mark.parametrize("everybody", [False, True], ids=["a range", "all"])
def test_arrays_and_predictions_of_several_patients_are_made_in_one_run(copied_study: Study, everybody: bool) -> None:
    ids = [case.id for case in read_train_paths(copied_study.train_paths).cases]
    chosen = ids if everybody else ids[1:4]
    before = {case_id: copied_study.cv_prediction(case_id).stat().st_mtime_ns for case_id in ids}
    tags = {"dagster/asset_partition_range_start": chosen[0], "dagster/asset_partition_range_end": chosen[-1]}
    result = run_of(copied_study, ("preprocessed_case", "cv_prediction"), tags)
    made = [(event.asset_key.path[-1], event.partition) for event in result.get_asset_materialization_events()]
    assert sorted(made) == sorted(
        (name, case_id) for name in ("preprocessed_case", "cv_prediction") for case_id in chosen
    )
    after = {case_id: copied_study.cv_prediction(case_id).stat().st_mtime_ns for case_id in ids}
    assert {case_id for case_id in ids if after[case_id] != before[case_id]} == set(chosen)


def test_nothing_follows_a_patient_that_failed(copied_study: Study) -> None:
    case = read_train_paths(copied_study.train_paths).cases[0]
    table = copied_study.train_paths
    table.write_text(table.read_text().replace("t1.nii.gz", "gone.nii.gz", 1))
    with instance() as opened:
        job = dg.define_asset_job(
            "selected",
            selection=dg.AssetSelection.assets(
                *(asset_key(copied_study, name) for name in ("preprocessed_case", "cv_prediction"))
            ),
        )
        whole = dg.Definitions.merge(build_definitions([copied_study]), dg.Definitions(jobs=[job]))
        result = whole.resolve_job_def("selected").execute_in_process(
            instance=opened, tags={"dagster/partition": case.id}, raise_on_error=False
        )
    assert not result.success


def test_every_asset_with_partitions_is_in_a_pair() -> None:
    paired = {name for _, names in PAIRS for name in names}
    partitioned = {name for stage in STAGES.values() if stage.partitions for name in asset_names(stage)}
    assert partitioned <= paired
    assert {names for _, names in PAIRS} >= SAMPLE
