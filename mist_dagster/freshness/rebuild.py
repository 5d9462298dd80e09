"""Records made anew from the files of a study, where Dagster's own are lost: files are the truth, records follow."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from mist_dagster.definitions import build_definitions
from mist_dagster.freshness.status import Status
from mist_dagster.launch import Launcher
from mist_dagster.partitions import fold_key
from mist_dagster.provenance import asset_key, config_versions, provenance_tags, version_tags
from mist_ops.config import read_config
from mist_ops.dataset import read_paths, read_train_paths
from mist_ops.files import file_hash
from mist_ops.records.arrays import case_content
from mist_ops.records.passport import read_passport
from mist_ops.records.prediction import read_prediction_record
from mist_ops.study import Study


@dataclass(frozen=True)
class Artifact:
    """What lies in the folders of a study: its asset and partition, its version, and whether it is current."""

    asset: str
    partition: str | None
    version: str
    current: bool


def rebuild(launcher: Launcher, study: Study, found: Status) -> int:
    """Record every artifact of a study that lies in its folders; return their number.

    What is current gets the origin that it would have if it had been made just now. Of what is out of date the record
    says only that it is there.
    """
    if study.data:
        launcher.run_stage(study, "observe")
    graph = build_definitions([study], launcher.progress, tools=()).resolve_asset_graph()
    artifacts = [*_settings(study), *_arrays(study, found), *_models(study, found), *_masks(study, found)]
    if study.results_csv.is_file():
        artifacts.append(Artifact("evaluation", None, file_hash(study.results_csv), not found.scores))
    for artifact in artifacts:
        node = graph.get(asset_key(study, artifact.asset))
        origin = node.code_version or "", node.parent_keys
        _record(launcher.instance, node.key, provenance_tags(launcher.instance, *origin), artifact)
    return len(artifacts)


def _record(instance: dg.DagsterInstance, key: dg.AssetKey, origin: Mapping[str, str], artifact: Artifact) -> None:
    made = dg.AssetMaterialization(
        key,
        partition=artifact.partition,
        description="Recorded from its files.",
        tags={**(origin if artifact.current else {}), **version_tags(artifact.version)},
    )
    instance.report_runless_asset_event(made)


def _settings(study: Study) -> Iterator[Artifact]:
    for name, version in config_versions(study, read_config(study.config)).items():
        yield Artifact(name, None, version, True)


def _arrays(study: Study, found: Status) -> Iterator[Artifact]:
    for case in read_train_paths(study.train_paths).cases:
        if study.image(case.id).is_file():
            content = case_content(study, case.id)
            yield Artifact("preprocessed_case", case.id, content, case.id not in found.patients)


def _models(study: Study, found: Status) -> Iterator[Artifact]:
    for fold in read_config(study.config).training.folds:
        if study.model(fold).is_file() and study.passport(fold).is_file():
            weights = read_passport(study.model(fold)).weights
            yield Artifact("fold_model", fold_key(fold), weights, fold not in found.folds)


def _masks(study: Study, found: Status) -> Iterator[Artifact]:
    channels = read_config(study.config).dataset_info.images
    tests = read_paths(study.test_paths, channels) if study.test_paths.is_file() else []
    places = (
        ("cv_prediction", "train", read_train_paths(study.train_paths).cases, study.cv_prediction, found.predictions),
        ("test_prediction", "test", tests, study.test_prediction, found.tests),
    )
    for asset, part, cases, mask_of, outdated in places:
        for case in cases:
            record = read_prediction_record(study.prediction_record(part, case.id))
            if record and mask_of(case.id).is_file():
                yield Artifact(asset, case.id, record.mask, case.id not in outdated)
