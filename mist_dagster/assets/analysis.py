"""The plan of a study: config.json, the folds, and the settings of each stage.

One asset represents the whole of config.json, and one more the settings that each stage reads, so that an edit of the
number of epochs makes models stale and leaves arrays current.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from mist_dagster import metadata
from mist_dagster.assets.launchpad import Overrides, fields
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key, interruptible
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import setting_assets
from mist_dagster.stages.settings import config_versions, shown_settings
from mist_ops.analysis.analyze import analyze, fold_origins, kept_settings
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.study import Study


class _AnalysisRun(Overrides):
    workers: int = Field(1, description="Processes that read cases.")
    verify: bool = Field(False, description="Check every case first, and exclude those that fail.")
    fresh: bool = Field(False, description="Discard edits of config.json, the folds and the plan.")
    replan: bool = Field(
        False, description="Plan spacing, patch size and normalization again; by default those of config.json are kept."
    )


AnalysisRun: Any = create_model("AnalysisRun", __base__=_AnalysisRun, **fields())
"""Run config of the analysis: how to run, and a field for every setting that is also a flag."""


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
