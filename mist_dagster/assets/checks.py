"""Checks of data, folds and models. What is stale is checked in ``freshness``.

None is blocking in Dagster's sense, which stops only what follows in the same run: folds and patients are other
partitions, so other runs, and one patient must not stop the others. Where later work would be wrong, its asset refuses
by itself, for the reason that the check reports: training on a leak, preprocessing of a patient with two grids.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial

import dagster as dg
from pydantic import Field

from mist_dagster.assets.dataset import dataset_json
from mist_dagster.metadata import table
from mist_dagster.provenance import asset_key, collect
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import gate_keys
from mist_ops.analysis.analyze import find_leaks, read_fingerprint
from mist_ops.analysis.verify import verify
from mist_ops.config import read_config
from mist_ops.dataset import find_training_cases, read_description, read_train_paths
from mist_ops.evaluation.accepted import regressions
from mist_ops.records.arrays import reduced_labels
from mist_ops.records.passport import read_passport
from mist_ops.study import Study
from mist_ops.workers import outcomes


class VerifyRun(dg.Config):
    """How to verify the cases."""

    workers: int = Field(1, description="Processes that read cases.")


_GATES = {
    "readable": "Every file can be read and holds finite voxels.",
    "one_grid": "Images and mask of a patient have the same size, spacing, origin and direction; otherwise its "
    "preprocessing fails.",
    "known_labels": "Masks hold only labels that dataset.json lists, and not just background.",
}


def raw_case_gates(study: Study) -> dg.AssetChecksDefinition:
    """Checks that read every file of every patient, as ``mist_analyze --verify`` does, and change nothing."""

    @dg.multi_asset_check(
        name=f"{study.key}__verify_cases",
        specs=[
            dg.AssetCheckSpec(check.name, asset=check.asset_key, description=_GATES[check.name])
            for check in gate_keys(study)
        ],
        can_subset=True,  # so that the page of one check can execute it
    )
    def verify_cases(
        context: dg.AssetCheckExecutionContext, config: VerifyRun, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.AssetCheckResult]:
        description = read_description(dataset_json(study))
        cases = find_training_cases(description)
        verified = outcomes(partial(verify, description=description), cases, config.workers)
        found, failures = collect(progress.track(verified, "Verifying", len(cases)), progress)
        rows = [
            (problem.gate, {"case": name, "because": str(problem.error)})
            for name, problems in found.items()
            for problem in problems
        ]
        rows += [("readable", {"case": name, "because": message}) for name, message in failures.items()]
        for check in sorted(context.op_execution_context.selected_asset_check_keys):
            yield _result([row for gate, row in rows if gate == check.name], dg.AssetCheckSeverity.ERROR, check)

    return verify_cases


def data_checks(study: Study) -> list[dg.AssetChecksDefinition]:
    """The checks of a study's data, folds and models."""

    @dg.asset_check(asset=asset_key(study, "study_config"), name="usable_cases")
    def usable_cases() -> dg.AssetCheckResult:
        """No case was excluded, no two cases have the same image, and the analysis gave no other warning."""
        found = read_fingerprint(study)
        rows = [{"case": name, "because": "; ".join(reasons)} for name, reasons in found.excluded.items()]
        rows += [{"case": "", "because": warning} for warning in found.warnings]
        return _result(rows, dg.AssetCheckSeverity.WARN)

    @dg.asset_check(asset=asset_key(study, "fold_assignment"), name="no_leakage")
    def no_leakage() -> dg.AssetCheckResult:
        """No fold holds out an image or a group that it also trains on; otherwise training refuses to start."""
        return _result([{"because": leak} for leak in find_leaks(study)], dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset=asset_key(study, "preprocessed_case"), name="labels_kept")
    def labels_kept() -> dg.AssetCheckResult:
        """No label lost more than half of its volume when the mask of a patient was cropped and resampled."""
        found = reduced_labels(study, [case.id for case in read_train_paths(study.train_paths).cases])
        rows: list[dict[str, float | int | str]] = [
            {"case": case_id, "label": label, "mm³ in the mask": before, "mm³ in the arrays": after}
            for case_id, labels in found.items()
            for label, (before, after) in labels.items()
        ]
        return _result(rows, dg.AssetCheckSeverity.WARN)

    @dg.asset_check(asset=asset_key(study, "fold_model"), name="finite_losses")
    def finite_losses() -> dg.AssetCheckResult:
        """Every loss of every trained fold is finite."""
        rows: list[dict[str, int | str]] = [
            {"fold": fold, "epoch": epoch.index + 1, "because": f"{name} is {loss}"}
            for fold in read_config(study.config).training.folds
            if study.passport(fold).is_file()
            for epoch in read_passport(study.model(fold)).history
            for name, loss in (("training_loss", epoch.training_loss), ("validation_loss", epoch.validation_loss))
            if loss is not None and not math.isfinite(loss)
        ]
        return _result(rows, dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset=asset_key(study, "evaluation"), name="no_worse_than_accepted")
    def no_worse_than_accepted() -> dg.AssetCheckResult:
        """No score is worse than the accepted one (``mist_accept``) on the same patients."""
        if not study.accepted_csv.is_file():
            return _result([], dg.AssetCheckSeverity.WARN)
        found = regressions(study.results_csv, study.accepted_csv, read_config(study.config).evaluation)
        return _result([asdict(worse) for worse in found], dg.AssetCheckSeverity.WARN)

    of_training = [finite_losses, no_worse_than_accepted]
    return of_training if study.original else [usable_cases, no_leakage, labels_kept, *of_training]


def _result(
    rows: Sequence[Mapping[str, float | int | str]],
    severity: dg.AssetCheckSeverity,
    check: dg.AssetCheckKey | None = None,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=not rows,
        asset_key=check.asset_key if check else None,
        check_name=check.name if check else None,
        severity=severity,
        metadata={"found": table(rows)} if rows else {},
    )
