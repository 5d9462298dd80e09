"""What the scans of the training patients are like, by which new ones are judged at prediction."""

from typing import Optional

import dagster as dg
from pydantic import Field, NonNegativeInt

from mist_dagster import metadata
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
from mist_ops.errors import few
from mist_ops.files import file_hash
from mist_ops.records.guard import Guard, summary, write_guard
from mist_ops.study import Study


class GuardRun(dg.Config):
    """How to build the guard."""

    damages: NonNegativeInt = Field(4, description="Damages to plant on each training patient.")
    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """guard.json."""

    @dg.asset(
        key=asset_key(study, "guard"),
        group_name=study.key,
        deps=[asset_key(study, name) for name in ("fold_model", "raw_case", "test_prediction_settings")],
        code_version=STAGES["guard"].code_version,
        pool="gpu",
        op_tags=GPU_QUEUE,
        kinds={"json"},
    )
    def guard(
        context: dg.AssetExecutionContext, config: GuardRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """What scans of the training patients are like, which damages are noticed, and what Dice to expect."""
        from mist_ops.devices import resolve_device  # torch takes seconds to load
        from mist_ops.inference.guard_study import build, scan_patients, scanned_ids

        folds = read_config(study.config).training.folds
        with (
            interruptible(context),
            study_lock(context.run.run_id, study, "building its guard", stage="guard", reads=folds),
            leased_devices(config.device, 1, context) as [device],
            recording(study, STAGES["guard"]),
        ):
            scans = scan_patients(study, resolve_device(device), config.damages, reserve)
            scanned, failures = collect(
                progress.track(scans, "Measuring training patients", len(scanned_ids(study))), progress
            )
            if failures:
                raise dg.Failure(
                    f"{len(failures)} of {len(failures) + len(scanned)} patients could not be measured, and no guard "
                    f"was built: {few(list(failures))}."
                )
            made = build(study, scanned)
            write_guard(study.guard, made)
        return dg.MaterializeResult(data_version=dg.DataVersion(file_hash(study.guard)), metadata=_shown(study, made))

    return [guard]


def _shown(study: Study, made: Guard) -> metadata.Metadata:
    return {
        "file": metadata.path(study.guard),
        "patients": len(made.patients),
        "false alarms": made.false_alarms,
        "summary": dg.MetadataValue.md("\n".join(f"- {line}" for line in summary(made))),
        "planted": metadata.table(
            [{"damage": name, "noticed": each.noticed, "scans": each.scans} for name, each in made.planted.items()]
        ),
    }
