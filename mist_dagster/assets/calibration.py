"""The calibration of a study's probabilities and volumes on its held-out patients."""

from functools import partial
from typing import Any, Optional, cast

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.instance import addresses
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key, collect, interruptible
from mist_dagster.runtime.executors import GPU_QUEUE
from mist_dagster.runtime.gpu import leased_devices
from mist_dagster.runtime.locks import study_lock
from mist_dagster.runtime.memory import reserve
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_dagster.stages.records import recording
from mist_ops.config import read_config
from mist_ops.dataset import read_paths, read_train_paths
from mist_ops.errors import few
from mist_ops.files import file_hash
from mist_ops.records.calibration import Calibration, write_calibration
from mist_ops.study import Study


class CalibrationRun(dg.Config):
    """How to run the calibration."""

    device: Optional[str] = Field(None, description="cpu, cuda or a GPU number; a GPU if there is one.")  # noqa: UP045
    figures: bool = Field(True, description="Draw reliability curves and volumes.")


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """calibration.json, and the calibrated test patients."""
    return [_calibration(study), _calibrated_tests(study)]


def _calibration(study: Study) -> dg.AssetsDefinition:
    upstream = ("fold_model", "cv_prediction", "preprocessed_case", "raw_case", "prediction_settings")

    @dg.asset(
        key=asset_key(study, "calibration"),
        deps=[dg.AssetDep(asset_key(study, name)) for name in upstream],
        kinds={"json"},
        **_described(study),
    )
    def calibration(
        context: dg.AssetExecutionContext, config: CalibrationRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Scaling of the class probabilities, and intervals of volumes, from the errors of held-out predictions."""
        from mist_ops.devices import resolve_device  # torch takes seconds to load
        from mist_ops.inference.calibration import calibrated_cases, fit_calibration, observe_held_out

        ids = [case.id for case in calibrated_cases(study)]
        folds = read_train_paths(study.train_paths).folds_of(set(ids))
        with (
            interruptible(context),
            study_lock(context.run.run_id, study, "calibrating", stage="calibrate", reads=folds),
            leased_devices(config.device, 1, context) as [device],
            recording(study, STAGES["calibrate"]),
        ):
            observed = observe_held_out(study, ids, resolve_device(device), reserve)
            patients, failures = collect(progress.track(observed, "Predicting held-out patients", len(ids)), progress)
            found = fit_calibration(study, patients, read_config(study.config))
            write_calibration(study.calibration, found)
        shown = _shown(study, found, drawn=config.figures)
        if failures:
            raise dg.Failure(
                f"{len(failures)} of {len(ids)} patients failed and did not count for {study.calibration}: "
                f"{few(list(failures))}.",
                allow_retries=False,
            )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(file_hash(study.calibration)),
            metadata={
                "calibration": metadata.path(study.calibration),
                "calibration page": metadata.page(addresses.calibration(study)),
                "patients": len(patients),
                **shown,
            },
        )

    return cast(dg.AssetsDefinition, calibration)


def _calibrated_tests(study: Study) -> dg.AssetsDefinition:
    upstream = ("calibration", "fold_model", "test_case", "test_prediction_settings")

    @dg.asset(
        key=asset_key(study, "calibrated_tests"),
        deps=[dg.AssetDep(asset_key(study, name)) for name in upstream],
        kinds={"csv"},
        **_described(study),
    )
    def calibrated_tests(
        context: dg.AssetExecutionContext, config: CalibrationRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """Calibrated probabilities of the test patients, and their volumes with intervals."""
        from mist_ops.devices import resolve_device
        from mist_ops.inference.calibration import calibrate_tests, write_volumes

        settings = read_config(study.config)
        count = len(read_paths(study.test_paths, settings.dataset_info.images))
        with (
            interruptible(context),
            study_lock(
                context.run.run_id, study, "calibrating", stage="calibrate_tests", reads=settings.training.folds
            ),
            leased_devices(config.device, 1, context) as [device],
            recording(study, STAGES["calibrate_tests"]),
        ):
            predicted = calibrate_tests(study, resolve_device(device), reserve)
            rows, failures = collect(progress.track(predicted, "Predicting test patients", count), progress)
            write_volumes(study.calibrated_volumes, rows, rows)
        if failures:
            raise dg.Failure(f"{len(failures)} of {count} patients failed: {few(list(failures))}.", allow_retries=False)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(file_hash(study.calibrated_volumes)),
            metadata={"volumes": metadata.path(study.calibrated_volumes), "patients": len(rows)},
        )

    return cast(dg.AssetsDefinition, calibrated_tests)


def _described(study: Study) -> dict[str, Any]:
    return {"group_name": study.key, "code_version": CODE_VERSION, "pool": "gpu", "op_tags": GPU_QUEUE}


def _shown(study: Study, found: Calibration, *, drawn: bool) -> metadata.Metadata:
    """The numbers and figures of a calibration, which are drawn or removed."""
    from mist_ops.inference.calibration_pictures import draw_reliability, draw_volumes

    curves, volumes = study.figure("reliability"), study.figure("volumes")
    shown: metadata.Metadata = {
        **metadata.drawn(
            curves, partial(draw_reliability, curves, found) if drawn and found.probabilities else None, "reliability"
        ),
        **metadata.drawn(volumes, partial(draw_volumes, volumes, found) if drawn else None, "volumes"),
    }
    if found.probabilities:
        shown["expected calibration error before"] = found.probabilities.before.top.error
        shown["expected calibration error after"] = found.probabilities.after.top.error
        if found.probabilities.scaling.temperature:
            shown["temperature"] = found.probabilities.scaling.temperature
    for name, (inside, known) in {name: of_class.covered for name, of_class in found.volumes.items()}.items():
        if known:
            shown[f"true volumes of {name} in their interval"] = f"{inside} of {known}"
    return shown
