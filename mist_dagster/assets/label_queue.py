"""The test patients whose masks would teach most: those with most disagreement between the models of the folds."""

from typing import Optional

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.assets.review import queue_table
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import asset_key, collect, interruptible
from mist_dagster.runtime.executors import GPU_QUEUE
from mist_dagster.runtime.gpu import leased_devices
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.memory import reserve
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_dagster.stages.records import recording
from mist_ops.config import read_config
from mist_ops.dataset import read_paths
from mist_ops.errors import counted, few
from mist_ops.files import file_hash
from mist_ops.review.queue import write_queue
from mist_ops.review.unlabeled import ranked
from mist_ops.study import Study


class LabelQueueRun(dg.Config):
    """How to predict the test patients by each model."""

    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """label_queue.csv."""
    model, images = (
        dg.AssetDep(asset_key(study, name), partition_mapping=dg.AllPartitionMapping())
        for name in ("fold_model", "test_prediction")
    )

    @dg.asset(
        key=asset_key(study, "label_queue"),
        group_name=study.key,
        deps=[model, images, asset_key(study, "test_prediction_settings")],
        code_version=STAGES["label_next"].code_version,
        pool="gpu",
        op_tags=GPU_QUEUE,
        kinds={"csv"},
    )
    def label_queue(
        context: dg.AssetExecutionContext, config: LabelQueueRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Test patients by how much the models of the folds disagree on them."""
        from mist_ops.devices import resolve_device  # torch takes seconds to load
        from mist_ops.inference.by_fold import disagree

        settings = read_config(study.config)
        ids = [case.id for case in read_paths(study.test_paths, settings.dataset_info.images)]
        with (
            interruptible(context),
            study_lock(context.run.run_id, study, "predicting", stage="label_next", reads=settings.training.folds),
            leased_devices(config.device, 1, context) as [device],
            recording(study, STAGES["label_next"]),
        ):
            predicted = disagree(study, ids, resolve_device(device), reserve)
            found, failures = collect(progress.track(predicted, "Comparing models", len(ids)), progress)
            if not found:
                raise dg.Failure(f"No test patient could be predicted: {few(list(failures))}.")
            entries = ranked(found)
            write_queue(study.label_queue, entries)
        if failures:
            raise dg.Failure(
                f"{len(failures)} of {counted(len(ids), 'patient')} could not be predicted: {few(list(failures))}."
            )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(file_hash(study.label_queue)),
            metadata={
                "review page": metadata.page(addresses.review(study)),
                "file": metadata.path(study.label_queue),
                "patients": len(entries),
                "most disagreement first": queue_table(entries),
            },
        )

    return [label_queue]
