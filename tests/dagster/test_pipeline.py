"""The whole graph, run by the commands: what is on disk and what is recorded."""

import csv
from pathlib import Path

import dagster as dg
import nibabel as nib
import pytest

from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.status import status
from mist_dagster.provenance import asset_key
from mist_dagster.stages import STAGES, asset_names
from mist_dagster.stages.settings import adopt_config
from mist_ops.config import override, read_config, write_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study

from .staleness import StaleStatus, staleness


def test_every_file_of_the_layout_is_there(finished: Study) -> None:
    cases = [case.id for case in read_train_paths(finished.train_paths).cases]
    whole = [finished.config, finished.fingerprint, finished.fg_bboxes, finished.evaluation_paths, finished.results_csv]
    per_fold = [where(fold) for where in (finished.model, finished.passport, finished.checkpoint) for fold in (0, 1)]
    per_case = [where(case) for where in (finished.image, finished.label, finished.cv_prediction) for case in cases]
    missing = [path for path in (*whole, finished.test_paths, *per_fold, *per_case) if not path.is_file()]
    assert missing == []


def test_results_have_a_row_for_each_patient_and_five_that_sum_up(finished: Study) -> None:
    with finished.results_csv.open(newline="") as stream:
        ids = [row["id"] for row in csv.DictReader(stream)]
    patients = [case.id for case in read_train_paths(finished.train_paths).cases]
    assert ids == [*patients, "Mean", "Std", "25th Percentile", "Median", "75th Percentile"]


def test_predictions_lie_on_the_grid_of_the_masks(finished: Study) -> None:
    for case in read_train_paths(finished.train_paths).cases:
        mask, prediction = nib.load(case.mask), nib.load(finished.cv_prediction(case.id))
        assert prediction.shape == mask.shape
        assert abs(prediction.affine - mask.affine).max() < 1e-4


# The other optional stages have commands of their own, whose tests run them.
RUN = [stage for stage in STAGES.values() if not stage.optional or stage.name == "choose_postprocessing"]


@pytest.mark.parametrize("name", [name for stage in RUN for name in asset_names(stage) if name != "dataset"])
def test_every_asset_is_recorded(finished: Study, records: dg.DagsterInstance, name: str) -> None:
    key = asset_key(finished, name)
    observed = name in ("raw_case", "test_case")
    record = records.fetch_observations(key, 1) if observed else records.fetch_materializations(key, 1)
    assert record.records


def test_every_patient_and_fold_is_materialized(finished: Study, records: dg.DagsterInstance) -> None:
    patients = {case.id for case in read_train_paths(finished.train_paths).cases}
    for name, expected in (
        ("preprocessed_case", patients),
        ("cv_prediction", patients),
        ("fold_model", {"fold_0", "fold_1"}),
    ):
        assert records.get_materialized_partitions(asset_key(finished, name)) == expected


def test_a_finished_study_is_current_everywhere(finished: Study, records: dg.DagsterInstance) -> None:
    resolver = staleness(finished, records)
    for name in ("study_config", "fold_assignment", "training_settings", "evaluation"):
        assert resolver.get_status(asset_key(finished, name)) == StaleStatus.FRESH, name
    patient = read_train_paths(finished.train_paths).cases[0].id
    for name, partition in (("preprocessed_case", patient), ("cv_prediction", patient), ("fold_model", "fold_0")):
        causes = resolver.get_stale_causes(asset_key(finished, name), partition)
        assert not causes, (name, [(cause.reason, cause.dependency) for cause in causes])


def test_an_edit_of_the_epochs_makes_models_stale_and_leaves_arrays_current(
    finished: Study, records: dg.DagsterInstance
) -> None:
    before = read_config(finished.config)
    patient = read_train_paths(finished.train_paths).cases[0].id
    try:
        edited = override(before, {"training.epochs": 7})
        write_config(finished.config, edited)
        assert set(adopt_config(records, finished, edited, "edited")) == {"study_config", "training_settings"}
        resolver = staleness(finished, records)
        assert resolver.get_status(asset_key(finished, "fold_model"), "fold_1") == StaleStatus.STALE
        assert resolver.get_status(asset_key(finished, "preprocessed_case"), patient) == StaleStatus.FRESH
    finally:
        write_config(finished.config, before)
        adopt_config(records, finished, before, "edited back")


def test_pictures_and_scores_are_in_the_metadata(finished: Study, records: dg.DagsterInstance) -> None:
    prediction = records.get_latest_materialization_event(asset_key(finished, "cv_prediction"))
    assert {"picture", "mask", "figure"} < set(prediction.asset_materialization.metadata)
    model = records.get_latest_materialization_event(asset_key(finished, "fold_model"))
    assert {"curve", "best validation loss", "weights"} < set(model.asset_materialization.metadata)
    evaluation = records.get_latest_materialization_event(asset_key(finished, "evaluation"))
    assert any(name.startswith("mean ") for name in evaluation.asset_materialization.metadata)
    assert evaluation.asset_materialization.metadata["patients, worst first"].value == str(finished.patient_index)


def test_each_patient_has_a_page_with_its_picture_and_the_model_that_predicted_it(finished: Study) -> None:
    cases = read_train_paths(finished.train_paths).cases
    pages = {path.name for path in finished.patient_index.parent.iterdir()}
    assert pages == {"index.html", *(f"{case.id}.html" for case in cases)}
    page = finished.patient_page(cases[0].id).read_text()
    assert f'src="../{finished.cv_figure(cases[0].id).name}"' in page
    assert "best epoch <b>1</b> of 1" in page


def test_what_a_user_launches_in_the_ui_writes_the_same_arrays(finished: Study, records: dg.DagsterInstance) -> None:
    case = read_train_paths(finished.train_paths).cases[0].id
    before = finished.image(case).read_bytes(), finished.label(case).read_bytes()
    job = build_definitions([finished]).resolve_job_def("phantoms__preprocess")
    assert job.execute_in_process(instance=records, partition_key=case).success
    assert (finished.image(case).read_bytes(), finished.label(case).read_bytes()) == before


def test_a_mask_that_cannot_be_drawn_fails_its_patient_and_not_the_others(
    finished: Study, records: dg.DagsterInstance
) -> None:
    first, second = read_train_paths(finished.train_paths).cases[:2]
    before = first.mask.read_bytes()
    events = len(records.fetch_materializations(asset_key(finished, "cv_prediction"), 100).records)
    job = build_definitions([finished]).resolve_job_def("phantoms__predict")
    patients = {"dagster/asset_partition_range_start": first.id, "dagster/asset_partition_range_end": second.id}
    try:
        first.mask.write_bytes(b"no mask")
        result = job.execute_in_process(instance=records, tags=patients, raise_on_error=False)
    finally:
        first.mask.write_bytes(before)
    assert not result.success
    assert len(records.fetch_materializations(asset_key(finished, "cv_prediction"), 100).records) == events + 1


def test_a_patient_that_cannot_be_predicted_keeps_its_earlier_mask_which_is_stale(
    finished: Study, records: dg.DagsterInstance
) -> None:
    case = read_train_paths(finished.train_paths).cases[0].id
    kept = {path: path.read_bytes() for path in _files_of_prediction(finished, case)}
    job = build_definitions([finished]).resolve_job_def("phantoms__predict")
    try:
        finished.image(case).write_bytes(b"damaged")
        assert not job.execute_in_process(instance=records, partition_key=case, raise_on_error=False).success
        assert finished.cv_prediction(case).read_bytes() == kept[finished.cv_prediction(case)]
        assert case in status(finished).of("predict")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def _files_of_prediction(study: Study, case: str) -> tuple[Path, ...]:
    return study.image(case), study.cv_prediction(case), study.prediction_record("train", case)
