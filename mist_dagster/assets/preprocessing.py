"""The arrays that models train on: a partition per patient, any range of them in one run."""

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import RANGE_IN_ONE_RUN, Materialized, asset_key, interruptible, materialize_each
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.progress import Progress
from mist_dagster.runtime.slurm import allocation, patients
from mist_dagster.stages import STAGES
from mist_ops.config import read_config
from mist_ops.dataset import Case, read_train_paths
from mist_ops.preprocessing.case import write_cases
from mist_ops.records.arrays import describe_reduced, read_record, reduced, reduced_labels
from mist_ops.records.source import check_same_dataset
from mist_ops.study import Study
from mist_ops.workers import Outcome

_logger = logging.getLogger("mist")


class PreprocessingRun(dg.Config):
    """How to run the preprocessing."""

    workers: int = Field(1, description="Processes that preprocess cases.")


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """The arrays of each patient."""

    @dg.asset(
        key=asset_key(study, "preprocessed_case"),
        group_name=study.key,
        partitions_def=partitions.patients,
        deps=[asset_key(study, "raw_case"), asset_key(study, "preprocessing_settings")],
        code_version=STAGES["preprocess"].code_version,
        **RANGE_IN_ONE_RUN,
        kinds={"numpy"},
    )
    def preprocessed_case(
        context: dg.AssetExecutionContext, config: PreprocessingRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.Output[None]]:
        """Channels, class indices and geometry of a patient, on the grid that models see."""
        settings, assignment = read_config(study.config), read_train_paths(study.train_paths)
        ids = sorted(context.partition_keys)
        cases = [assignment[case_id] for case_id in ids]
        check_same_dataset(study, assignment.cases)
        run_id, doing = context.run.run_id, "preprocessing"
        with (
            interruptible(context),
            study_lock(run_id, study, doing, stage="preprocess", partitions=ids, exclusive=True),
        ):
            slurm = allocation(context, study)
            here: contextlib.AbstractContextManager[Iterator[Outcome[Case, Any]]] = contextlib.nullcontext(
                write_cases(study, cases, settings, config.workers)
            )
            items = {case.id: case for case in cases}
            with patients(context, study, slurm, "preprocess", items) if slurm else here as outcomes:
                tracked = progress.track(outcomes, "Preprocessing", len(cases))
                yield from materialize_each(context, tracked, progress, partial(_made, study))
            note = describe_reduced(reduced_labels(study, ids))
            if note:
                _logger.warning("%s", note)

    return [preprocessed_case]


def _made(study: Study, case: Case, content: str) -> Materialized:
    record = read_record(study, case.id)
    geometry, fewer = record.geometry, reduced(record.volumes)
    return Materialized(
        version=content,
        metadata={
            "patient page": metadata.page(addresses.patient(study, case.id)),
            "file": metadata.path(study.image(case.id)),
            "size": " x ".join(str(voxels) for voxels in geometry.preprocessed.size),
            "original size": " x ".join(str(voxels) for voxels in geometry.original.size),
            "original spacing (mm)": " x ".join(f"{spacing:.3g}" for spacing in geometry.original.spacing),
            **({"labels reduced by more than half": ", ".join(map(str, fewer))} if fewer else {}),
        },
    )
