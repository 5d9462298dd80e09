"""Gates for data: checks on what must hold before, or after, hours are spent. What is out of date is in ``status``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import dagster as dg

from mist_dagster.metadata import table
from mist_dagster.provenance import asset_key
from mist_ops.analysis.analyze import find_leaks, read_fingerprint
from mist_ops.config import read_config
from mist_ops.evaluation.accepted import regressions
from mist_ops.study import Study
from mist_ops.training.passports import read_passport


def data_checks(study: Study) -> list[dg.AssetChecksDefinition]:
    """The checks of a study's data, folds and models."""

    @dg.asset_check(asset=asset_key(study, "study_config"), name="usable_cases")
    def usable_cases() -> dg.AssetCheckResult:
        """No case was left out, no two have the same image, and nothing else was noticed."""
        found = read_fingerprint(study)
        rows = [{"case": name, "because": "; ".join(reasons)} for name, reasons in found.excluded.items()]
        rows += [{"case": "", "because": warning} for warning in found.warnings]
        return _result(rows, dg.AssetCheckSeverity.WARN)

    @dg.asset_check(asset=asset_key(study, "fold_assignment"), name="no_leakage")
    def no_leakage() -> dg.AssetCheckResult:
        """No fold holds out an image, or a group, that also trains it; training refuses to begin otherwise."""
        return _result([{"because": leak} for leak in find_leaks(study)], dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset=asset_key(study, "fold_model"), name="finite_losses")
    def finite_losses() -> dg.AssetCheckResult:
        """Every loss of every trained fold is a number."""
        rows = [
            {"fold": fold, "epoch": epoch["index"], "because": f"{name} is {epoch[name]}"}
            for fold in read_config(study.config).training.folds
            if study.passport(fold).is_file()
            for epoch in read_passport(study.model(fold))["history"]
            for name in ("training_loss", "validation_loss")
            if not math.isfinite(epoch[name])
        ]
        return _result(rows, dg.AssetCheckSeverity.ERROR)

    @dg.asset_check(asset=asset_key(study, "evaluation"), name="no_worse_than_accepted")
    def no_worse_than_accepted() -> dg.AssetCheckResult:
        """No score is worse than in accepted.csv, which ``mist_accept`` writes, on the same patients."""
        if not study.accepted_csv.is_file():
            return _result([], dg.AssetCheckSeverity.WARN)
        found = regressions(study.results_csv, study.accepted_csv, read_config(study.config).evaluation)
        return _result([asdict(worse) for worse in found], dg.AssetCheckSeverity.WARN)

    return [usable_cases, no_leakage, finite_losses, no_worse_than_accepted]


def _result(rows: Sequence[Mapping[str, float | int | str]], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=not rows, severity=severity, metadata={"found": table(rows)} if rows else {})
