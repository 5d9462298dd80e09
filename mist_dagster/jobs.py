"""A job per stage of a study: what a command runs, and what the launchpad offers."""

import dagster as dg

from mist_dagster import metadata
from mist_dagster.dagster_private import UnresolvedAssetJobDefinition
from mist_dagster.instance import addresses
from mist_dagster.provenance import asset_key
from mist_dagster.stages import STAGES, Stage, asset_names, check_keys, gate_keys, job_name, stages_of
from mist_ops.study import Study


def study_jobs(study: Study) -> list[UnresolvedAssetJobDefinition]:
    """The jobs of a study, in the order of its stages."""
    jobs = [_job(study, stage.name, _selection(study, stage), stage.description) for stage in stages_of(study)]
    if study.original:
        return jobs
    gates = dg.AssetSelection.checks(*gate_keys(study))
    return [*jobs, _job(study, "verify", gates, "Read every file of every patient and check it.")]


def run_tags(study: Study, stage: str) -> dict[str, str]:
    """Tags of the runs of a stage."""
    priority = STAGES[stage].priority if stage in STAGES else 1
    return {"mist/study": study.key, "mist/stage": stage, "dagster/priority": str(priority)}


def _job(study: Study, stage: str, selection: dg.AssetSelection, description: str) -> UnresolvedAssetJobDefinition:
    name, tags = job_name(study, stage), run_tags(study, stage)
    linked = {"study page": metadata.page(addresses.home(study))}
    return dg.define_asset_job(name, selection=selection, tags=tags, description=description, metadata=linked)


def _selection(study: Study, stage: Stage) -> dg.AssetSelection:
    """The assets of a stage with their checks, except those that inspect the whole study."""
    assets = dg.AssetSelection.assets(*(asset_key(study, name) for name in asset_names(stage)))
    inspecting = [*check_keys(study), *([] if study.original else gate_keys(study))]
    return assets - dg.AssetSelection.checks(*inspecting)
