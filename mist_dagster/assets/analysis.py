"""The plan of a study: config.json, the folds, and the settings of each stage.

One asset represents the whole of config.json, and one more the settings that each stage reads, so that an edit of the
number of epochs makes models stale and leaves arrays current.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Optional, get_origin

import dagster as dg
from pydantic import Field, create_model

from mist_dagster import metadata
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key, interruptible
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import setting_assets
from mist_dagster.stages.settings import config_versions, shown_settings
from mist_ops.analysis.analyze import analyze, fold_origins, kept_settings
from mist_ops.config import StudyConfig, read_config
from mist_ops.dataset import read_train_paths
from mist_ops.schema import FlaggedField, flagged_fields
from mist_ops.study import Study


def _launchpad_name(flagged: FlaggedField) -> str:
    return flagged.flag.removeprefix("--").replace("-", "_")


FLAGS: Mapping[str, FlaggedField] = {_launchpad_name(flagged): flagged for flagged in flagged_fields(StudyConfig)}
"""The settings that are also flags, by their name in the launchpad."""


class _AnalysisRun(dg.Config):
    workers: int = Field(1, description="Processes that read cases.")
    verify: bool = Field(False, description="Check every case first, and exclude those that fail.")
    fresh: bool = Field(False, description="Discard edits of config.json, the folds and the plan.")
    replan: bool = Field(
        False, description="Plan spacing, patch size and normalization again; by default those of config.json are kept."
    )

    def overrides(self) -> dict[str, Any]:
        """The settings given for this run, by their dotted path in config.json."""
        given = {flagged.path: getattr(self, name) for name, flagged in FLAGS.items()}
        return {path: value for path, value in given.items() if value is not None}


def _setting(flagged: FlaggedField) -> tuple[Any, Any]:
    annotation = flagged.field.annotation
    # The launchpad has neither tuples nor literals; the values are validated with the configuration.
    shown = {tuple: list[int], Literal: str}.get(get_origin(annotation), annotation)
    return Optional[shown], Field(None, description=flagged.field.description)  # noqa: UP045 - not a static type


_SETTINGS: dict[str, Any] = {name: _setting(flagged) for name, flagged in FLAGS.items()}
AnalysisRun: Any = create_model("AnalysisRun", __base__=_AnalysisRun, **_SETTINGS)
"""Run config of the analysis: how to run, and a field for every setting that is also a flag."""


def launchpad(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Run config that gives settings, by their dotted path, to the analysis."""
    names = {flagged.path: name for name, flagged in FLAGS.items()}
    return {names[path]: list(value) if isinstance(value, tuple) else value for path, value in settings.items()}


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """config.json with the fold assignment, and the settings of each stage."""
    config_key = asset_key(study, "study_config")
    settings = [asset_key(study, name) for name in setting_assets()]
    described: dict[str, Any] = {"group_name": study.key, "code_version": CODE_VERSION, "kinds": {"json"}}

    @dg.multi_asset(
        name=f"{study.key}__analysis",
        specs=[
            dg.AssetSpec(
                config_key,
                deps=[asset_key(study, "dataset"), asset_key(study, "raw_case")],
                description="config.json: every setting, as planned from the dataset and edited since.",
                **described,
            ),
            dg.AssetSpec(
                asset_key(study, "fold_assignment"),
                deps=[config_key],
                description="train_paths.csv: the fold in which each patient is held out.",
                **described,
            ),
            *(dg.AssetSpec(key, deps=[config_key], description=_DESCRIPTION, **described) for key in settings),
        ],
    )
    def analysis(
        context: dg.AssetExecutionContext, config: AnalysisRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.MaterializeResult]:
        with (
            interruptible(context),
            study_lock(context.run.run_id, study, "analyzing", stage="analyze", exclusive=True),
        ):
            measured = analyze(
                study,
                workers=config.workers,
                check=config.verify,
                fresh=config.fresh,
                replan=config.replan,
                overrides=config.overrides(),
            )
            for outcome in progress.track(measured, "Analyzing"):
                if outcome.error:
                    progress.problem(str(outcome.error))
        planned = read_config(study.config)
        for name, version in config_versions(study, planned).items():
            yield dg.MaterializeResult(
                asset_key=asset_key(study, name),
                data_version=dg.DataVersion(version),
                metadata={**_facts(study, name), "settings": dg.MetadataValue.json(shown_settings(name, planned))},
            )

    return [analysis]


_DESCRIPTION = "The part of config.json that a stage reads; its version changes only when that part does."


def _facts(study: Study, name: str) -> metadata.Metadata:
    if name == "study_config":
        facts: metadata.Metadata = {
            "file": metadata.path(study.config),
            "fingerprint": metadata.path(study.fingerprint),
        }
        kept = kept_settings(study)
        return {**facts, "kept": metadata.table([{"setting": line} for line in kept])} if kept else facts
    if name == "fold_assignment":
        assignment, origins = read_train_paths(study.train_paths), fold_origins(study)
        return {
            "file": metadata.path(study.train_paths),
            "patients": len(assignment.cases),
            **dict(Counter(origins.values())),
            "folds": metadata.table(
                [
                    {
                        "id": case.id,
                        "fold": assignment.fold_of[case.id],
                        "group": assignment.group_of.get(case.id, ""),
                        "decided by": origins[case.id],
                    }
                    for case in assignment.cases
                ]
            ),
        }
    return {}
