"""The training patients whose mask may be wrong, the most suspicious first."""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import asset_key, collect, interruptible
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_dagster.stages.records import recording
from mist_ops.errors import counted, few
from mist_ops.files import file_hash
from mist_ops.review.queue import Entry
from mist_ops.review.study import open_review
from mist_ops.study import Study


class ReviewRun(dg.Config):
    """How to run the review."""

    workers: int = Field(1, description="Processes that compare masks with predictions.")


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """review_queue.csv."""

    @dg.asset(
        key=asset_key(study, "review_queue"),
        group_name=study.key,
        deps=[asset_key(study, name) for name in ("cv_prediction", "raw_case", "evaluation_settings")],
        code_version=STAGES["review"].code_version,
        kinds={"csv"},
    )
    def review_queue(
        context: dg.AssetExecutionContext, config: ReviewRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Training patients by how unusually their mask disagrees with the model that has not seen it, with reasons."""
        task = open_review(study)
        with (
            interruptible(context),
            study_lock(context.run.run_id, study, "reviewing", stage="review"),
            recording(study, STAGES["review"]),
        ):
            masks = task.masks(pair.id for pair in task.pairs)
            compared = progress.track(task.measure(config.workers), "Comparing masks", len(task.pairs))
            found, failures = collect(compared, progress)
            if not found:
                raise dg.Failure(f"No mask could be compared: {few(list(failures))}.")
            entries = task.write(found, masks)
        if failures:
            patients = counted(len(task.pairs), "patient")
            raise dg.Failure(f"{len(failures)} of {patients} could not be compared: {few(list(failures))}.")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(file_hash(study.review_queue)),
            metadata={
                "review page": metadata.page(addresses.review(study)),
                "file": metadata.path(study.review_queue),
                "patients": len(entries),
                "most suspicious first": queue_table(entries),
            },
        )

    return [review_queue]


def queue_table(entries: Sequence[Entry]) -> dg.MetadataValue:
    """The head of a queue as metadata."""
    return metadata.table(
        [{"id": entry.id, "score": entry.score, "reasons": " ".join(entry.reasons)} for entry in entries]
    )
