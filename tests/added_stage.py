"""The module of a stage that only a test knows: a text file made from the scores."""

from __future__ import annotations

import dagster as dg

from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import asset_key
from mist_dagster.stages import STAGES
from mist_dagster.stages.records import recording
from mist_ops.study import Study


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    @dg.asset(
        key=asset_key(study, "summary"),
        group_name=study.key,
        deps=[asset_key(study, "evaluation"), asset_key(study, "summarize_settings")],
    )
    def summary() -> dg.MaterializeResult:
        with recording(study, STAGES["summarize"]):
            (study.results / "summary.txt").write_text(study.results_csv.read_text().splitlines()[0])
        return dg.MaterializeResult()

    return [summary]
