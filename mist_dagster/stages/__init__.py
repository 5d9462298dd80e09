"""The one table of stages: what a study consists of, in order, and how the state of each stage is tracked.

Jobs, checks, staleness, rebuilt records, lineage, run config and reports iterate over ``STAGES``. A new asset after
evaluation takes three places: its module in ``assets``, its row here, its path in ``mist_ops.study``.
"""

from collections.abc import Mapping

import dagster as dg

from mist_dagster.partitions import fold_index, fold_key
from mist_dagster.provenance import asset_key
from mist_dagster.stages import stale
from mist_dagster.stages.inspection import Inspection
from mist_dagster.stages.records import stale_by_record
from mist_dagster.stages.stage import WHOLE, Partitions, Stage
from mist_ops.analysis.verify import GATES
from mist_ops.errors import ConfigError
from mist_ops.files import file_hash, json_hash
from mist_ops.records.arrays import case_content, input_hashes
from mist_ops.records.passport import read_passport
from mist_ops.records.prediction import read_prediction_record
from mist_ops.study import Study

__all__ = [
    "IN_SYNC",
    "STAGES",
    "TOOLS",
    "WHOLE",
    "Inspection",
    "Partitions",
    "Stage",
    "asset_names",
    "check_keys",
    "gate_keys",
    "job_name",
    "keys_of",
    "owner",
    "setting_assets",
    "stages_of",
    "stale_partitions",
    "tracked",
    "tracked_of",
    "version_on_record",
]


def _arrays_version(study: Study, case_id: str) -> str | None:
    return case_content(study, case_id) if study.image(case_id).is_file() else None


def _weights_version(study: Study, key: str) -> str | None:
    fold = fold_index(key)
    if not study.model(fold).is_file() or not study.passport(fold).is_file():
        return None
    try:
        return read_passport(study.model(fold)).weights
    except ConfigError:
        return None


def _prediction_version(study: Study, part: str, case_id: str) -> str | None:
    record = read_prediction_record(study.prediction_record(part, case_id))
    return record.mask if record else None


def _scored_masks(seen: Inspection) -> dict[str, str]:
    """The labels, masks and predictions that are compared with each other."""
    content = {"labels": json_hash(seen.config.dataset_info.labels)}
    for case in seen.assignment.cases:
        if seen.study.cv_prediction(case.id).is_file():
            content[f"the prediction of {case.id}"] = _prediction_version(seen.study, "train", case.id) or ""
            content[f"the mask of {case.id}"] = input_hashes(seen.study, case).get("mask", "")
    return content


def _guarded(seen: Inspection) -> dict[str, str]:
    """The weights, scans and masks that the guard is built from."""
    classes = {name: scored.labels for name, scored in seen.config.evaluation.items()}
    content = {"the evaluated classes": json_hash(classes)}
    for fold in seen.config.training.folds:
        content[f"the model of fold {fold}"] = seen.weights.get(fold, "")
    for case in seen.assignment.cases:
        content[f"the files of {case.id}"] = json_hash(input_hashes(seen.study, case))
    return content


def _calibrated_on(seen: Inspection) -> dict[str, str]:
    """The models, and the labels, masks and predictions of their held-out patients."""
    models = {f"the model of fold {fold}": _weights_version(seen.study, fold_key(fold)) for fold in seen.weights}
    return {**_scored_masks(seen), **{name: version or "" for name, version in models.items()}}


def _calibrated_tests(seen: Inspection) -> dict[str, str]:
    """The calibration and the images of the test patients."""
    study = seen.study
    content = {"the calibration": file_hash(study.calibration) if study.calibration.is_file() else ""}
    for case in seen.test_cases:
        files = {name: file_hash(path) for name, path in case.images.items() if path.is_file()}
        content[f"the files of {case.id}"] = json_hash(files)
    return content


def _behind_models(seen: Inspection) -> dict[str, str]:
    """The records that an evidence pack repeats."""
    study, ids = seen.study, [case.id for case in seen.assignment.cases]
    passports = [study.passport(fold) for fold in seen.config.training.folds]
    files = {path.name: path for path in (*passports, study.results_csv, study.guard, study.calibration)}
    history = study.history.read_bytes().splitlines() if study.history.is_file() else []
    predictions = {case_id: _prediction_version(study, "train", case_id) for case_id in ids}
    tests = {case.id: _prediction_version(study, "test", case.id) for case in seen.test_cases}
    return {
        **{name: file_hash(path) for name, path in files.items() if path.is_file()},
        "scans": json_hash({case.id: input_hashes(study, case) for case in seen.assignment.cases}),
        "predictions": json_hash([predictions, tests]),
        # Keeping the pack itself does not change what it holds.
        "history.jsonl": json_hash([line.decode() for line in history if b'"step": "evidence"' not in line]),
    }


def _predicted_tests(seen: Inspection) -> dict[str, str]:
    """The models of the folds and the images of the test patients, as the records of the test predictions have them."""
    content = {"labels": json_hash(seen.config.dataset_info.labels)}
    content |= {fold_key(fold): weights for fold, weights in seen.weights.items()}
    for case in seen.test_cases:
        record = read_prediction_record(seen.study.prediction_record("test", case.id))
        content[f"the images of {case.id}"] = json_hash(record.images) if record else ""
    return content


_ROWS = (
    Stage(
        name="observe",
        assets=["raw_case"],
        description="Record the state of the images and masks of the training patients.",
        module="mist_dagster.assets.dataset",
    ),
    Stage(
        name="observe_tests",
        assets=["test_case"],
        description="Record the state of the images of the test patients.",
    ),
    Stage(
        name="analyze",
        assets=["dataset", "study_config", "fold_assignment"],
        all_settings=True,
        description="Measure the dataset; write config.json and the folds.",
        module="mist_dagster.assets.analysis",
        action="Analyze",
        doing="Analyzing",
        configured="analysis",
        checked="study_config",
        locate=lambda study, _: study.config,
        stale=stale.analysis,
        options=frozenset({"workers"}),
    ),
    Stage(
        name="dump",
        assets=["data_dump"],
        description="Describe the dataset in data_dump.json and data_dump.md.",
        module="mist_dagster.assets.data_dump",
        locate=lambda study, _: study.data_dump,
        optional=True,
        options=frozenset({"workers"}),
    ),
    Stage(
        name="preprocess",
        assets=["preprocessed_case"],
        description="Turn the images of patients into arrays.",
        module="mist_dagster.assets.preprocessing",
        action="Preprocess",
        doing="Preprocessing",
        noun="patient",
        partitions="patients",
        step="preprocessing",
        locate=lambda study, key: study.image(key),
        content=_arrays_version,
        stale=stale.arrays,
        follows=["analyze"],
        observes="observe",
        options=frozenset({"workers"}),
    ),
    Stage(
        name="train",
        assets=["training_set", "fold_model"],
        description="Train the network of a fold.",
        module="mist_dagster.assets.training",
        action="Train",
        doing="Training",
        noun="fold",
        partitions="folds",
        step="training",
        locate=lambda study, key: study.model(fold_index(key)),
        content=_weights_version,
        stale=stale.models,
        follows=["preprocess"],
        options=frozenset({"device", "figures"}),
        priority=0,  # trainings take days, everything else minutes
    ),
    Stage(
        name="predict",
        assets=["cv_prediction"],
        description="Predict held-out patients with the model of their fold.",
        module="mist_dagster.assets.prediction",
        action="Predict",
        doing="Predicting",
        noun="held-out patient",
        partitions="patients",
        step="prediction",
        locate=lambda study, key: study.cv_prediction(key),
        content=lambda study, key: _prediction_version(study, "train", key),
        stale=stale.held_out,
        follows=["preprocess", "train"],
        options=frozenset({"device", "figures"}),
        continues=True,
    ),
    Stage(
        name="evaluate",
        assets=["evaluation"],
        description="Score the held-out predictions.",
        module="mist_dagster.assets.evaluation",
        action="Evaluate",
        doing="Evaluating",
        step="evaluation",
        locate=lambda study, _: study.results_csv,
        stale=stale.scores,
        follows=["predict"],
        options=frozenset({"workers", "figures"}),
        continues=True,
    ),
    Stage(
        name="review",
        assets=["review_queue"],
        description="Rank the training patients by how unusually their mask disagrees with its held-out prediction.",
        module="mist_dagster.assets.review",
        action="Rank masks for review",
        doing="Ranking masks for review",
        step="evaluation",
        version=1,
        locate=lambda study, _: study.review_queue,
        reads=_scored_masks,
        follows=["predict"],
        optional=True,
        options=frozenset({"workers"}),
        continues=True,
    ),
    Stage(
        name="choose_postprocessing",
        assets=["postprocessing_strategy"],
        description="Search for the postprocessing that raises the scores of held-out predictions.",
        module="mist_dagster.assets.postprocessing",
        action="Choose postprocessing",
        doing="Choosing postprocessing",
        step="evaluation",
        version=1,
        locate=lambda study, _: study.strategy,
        reads=_scored_masks,
        follows=["predict"],
        optional=True,
        options=frozenset({"workers"}),
        continues=True,
    ),
    Stage(
        name="guard",
        assets=["guard"],
        description="Learn what scans of the training patients are like, to judge new ones.",
        module="mist_dagster.assets.guard",
        action="Build the guard",
        doing="Building the guard",
        step="test_prediction",
        version=1,
        locate=lambda study, _: study.guard,
        reads=_guarded,
        follows=["train"],
        optional=True,
        options=frozenset({"device"}),
        continues=True,
    ),
    Stage(
        name="calibrate",
        assets=["calibration"],
        description="Fit the calibration of probabilities and volumes on the held-out patients.",
        module="mist_dagster.assets.calibration",
        action="Calibrate",
        doing="Calibrating",
        step="prediction",
        version=1,
        locate=lambda study, _: study.calibration,
        reads=_calibrated_on,
        follows=["predict"],
        optional=True,
        options=frozenset({"device", "figures"}),
        continues=True,
    ),
    Stage(
        name="calibrate_tests",
        assets=["calibrated_tests"],
        description="Save calibrated probabilities and volumes of the test patients.",
        action="Calibrate the test patients",
        doing="Calibrating the test patients",
        step="test_prediction",
        version=1,
        locate=lambda study, _: study.calibrated_volumes,
        reads=_calibrated_tests,
        follows=["calibrate"],
        optional=True,
        observes="observe_tests",
        options=frozenset({"device"}),
        continues=True,
    ),
    Stage(
        name="test",
        assets=["test_prediction"],
        description="Predict the test patients with the models of all folds together.",
        action="Predict",
        doing="Predicting",
        noun="test patient",
        partitions="test_patients",
        step="test_prediction",
        locate=lambda study, key: study.test_prediction(key),
        content=lambda study, key: _prediction_version(study, "test", key),
        stale=stale.tests,
        follows=["train"],
        observes="observe_tests",
        options=frozenset({"device", "figures"}),
        continues=True,
    ),
    Stage(
        name="label_next",
        assets=["label_queue"],
        description="Rank the test patients by how much the models of the folds disagree on them.",
        module="mist_dagster.assets.label_queue",
        action="Rank test patients for labeling",
        doing="Ranking test patients for labeling",
        step="test_prediction",
        version=1,
        locate=lambda study, _: study.label_queue,
        reads=_predicted_tests,
        follows=["train", "test"],
        optional=True,
        options=frozenset({"device"}),
        continues=True,
    ),
    Stage(
        name="evidence",
        assets=["evidence_pack"],
        description="Pack everything behind the models in one file that anyone can verify.",
        module="mist_dagster.assets.evidence",
        action="Pack evidence",
        doing="Packing evidence",
        version=1,
        locate=lambda study, _: study.evidence,
        reads=_behind_models,
        follows=["train", "evaluate", "test"],
        optional=True,
    ),
)

STAGES: dict[str, Stage] = {row.name: row for row in _ROWS}
"""Every stage of a study by name, each after those whose artifacts it reads."""

TOOLS = (
    "prediction",
    "postprocessed",
    "ensemble",
    "evaluation",
    "ranking",
    "comparison",
    "converted_msd",
    "converted_nnunet",
    "converted_csv",
    "averaged_weights",
)
"""The assets outside of studies, each a module of ``tools``."""

IN_SYNC = "in_sync"
"""Name of the checks that report what is stale."""


def tracked() -> list[Stage]:
    """The stages whose artifacts can be stale."""
    return [stage for stage in STAGES.values() if stage.stale or stage.reads]


def stages_of(study: Study) -> list[Stage]:
    """The stages of a study; of a replica, those that it does not share with the original."""
    return [stage for stage in STAGES.values() if not (study.original and stage.shared)]


def tracked_of(study: Study) -> list[Stage]:
    """The stages of a study whose artifacts can be stale."""
    return [stage for stage in tracked() if stage in stages_of(study)]


def stale_partitions(stage: Stage, seen: Inspection) -> Mapping[str, str]:
    """Partitions of a tracked stage that need a run, with the reason of each; the file's name if it has none."""
    return stage.stale(seen) if stage.stale else stale_by_record(seen, stage)


def keys_of(stage: Stage, seen: Inspection) -> list[str]:
    """All partitions of a stage as of the last analysis, or ``WHOLE``."""
    if stage.partitions == "patients":
        return [case.id for case in seen.analyzed.assignment.cases]
    if stage.partitions == "test_patients":
        return [case.id for case in seen.analyzed.tests]
    if stage.partitions == "folds":
        return [f"fold_{fold}" for fold in seen.config.training.folds]
    return [WHOLE]


def version_on_record(stage: Stage, study: Study, key: str) -> str | None:
    """Version of an existing artifact; None if it is missing or its version is not on record."""
    if stage.locate is None or not stage.locate(study, key).is_file():
        return None
    return stage.content(study, key) if stage.content else file_hash(stage.locate(study, key))


def setting_assets() -> dict[str, Stage]:
    """The settings that stages read: the name of each settings asset, and a stage that reads them."""
    return {stage.settings: stage for stage in STAGES.values() if stage.settings}


def asset_names(stage: Stage) -> list[str]:
    """The assets that a run of a stage materializes."""
    return [*stage.assets, *(setting_assets() if stage.all_settings else ())]


def job_name(study: Study, stage: str) -> str:
    """Name of a stage's job; for a replica, that of the original for a stage that they share."""
    # Dagster loads no code location in which a job has the name of an operation, and so of an asset.
    named_as_asset = stage in STAGES and stage in STAGES[stage].assets
    key = owner(study, stage).key
    return f"{key}__{stage}_job" if named_as_asset else f"{key}__{stage}"


def owner(study: Study, stage: str) -> Study:
    """The study whose job runs a stage: the original of a replica, if they share the stage."""
    return study.original if study.original and stage in STAGES and STAGES[stage].shared else study


def check_keys(study: Study) -> list[dg.AssetCheckKey]:
    """Keys of the ``in_sync`` checks."""
    return [dg.AssetCheckKey(asset_key(study, stage.target), IN_SYNC) for stage in tracked_of(study)]


def gate_keys(study: Study) -> list[dg.AssetCheckKey]:
    """Keys of the checks that read every file of every patient."""
    return [dg.AssetCheckKey(asset_key(study, "raw_case"), gate) for gate in GATES]
