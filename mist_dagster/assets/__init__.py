"""The assets of a study, a module for each step from dataset.json to the scores.

Each module has a function ``build(study, partitions)`` that returns its assets, and a row in the table of stages.
"""

import importlib
from typing import TypeAlias

import dagster as dg

from mist_dagster import metadata
from mist_dagster.assets import replica
from mist_dagster.assets.checks import data_checks, raw_case_gates
from mist_dagster.instance import addresses
from mist_dagster.instance.studies import owners
from mist_dagster.partitions import StudyPartitions
from mist_dagster.stages import STAGES, stages_of
from mist_ops.study import Study

Asset: TypeAlias = dg.AssetsDefinition | dg.SourceAsset


def study_assets(study: Study, partitions: StudyPartitions) -> dg.Definitions:
    """The assets of a study and the checks of its data; of a replica, those that it does not share."""
    modules = [importlib.import_module(stage.module) for stage in stages_of(study) if stage.module]
    modules += [replica] if study.original else []
    named = owners(study)
    return dg.Definitions(
        assets=[_described(study, asset, named) for module in modules for asset in module.build(study, partitions)],
        asset_checks=[*([] if study.original else [raw_case_gates(study)]), *data_checks(study)],
    )


def _described(study: Study, asset: Asset, named: list[str]) -> Asset:
    """Link the page of the study from an asset, and name its owners; sources have neither in Dagster.

    Optional assets get a group of their own, so that the graph of the others is smaller, and *Materialize all* there
    makes what every user wants.
    """
    if not isinstance(asset, dg.AssetsDefinition):
        return asset
    linked = {"study page": metadata.page(addresses.home(study))}
    optional = {name for stage in STAGES.values() if stage.optional for name in stage.assets}
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(
            metadata={**spec.metadata, **linked},
            owners=named or spec.owners,
            group_name=f"{study.key}__optional" if spec.key.path[-1] in optional else spec.group_name,
        )
    )
