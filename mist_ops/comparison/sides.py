"""What is compared: sides of one or more runs, each run a table of scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from mist_ops.config import StudyConfig
from mist_ops.dataset import read_train_paths
from mist_ops.errors import ConfigError, DatasetError, counted, few
from mist_ops.evaluation.columns import read_columns
from mist_ops.evaluation.standings import Column
from mist_ops.files import json_hash
from mist_ops.records.passport import Passport, read_passport
from mist_ops.steps import changes, settings
from mist_ops.study import Study

SEPARATOR = ","
"""Between the tables of a side on the command line."""


@dataclass(frozen=True)
class Run:
    """The scores of one run of a method.

    Attributes:
        path: Its table.
        columns: Its columns of known metrics.
        fold_of: The fold whose model scored each patient, if it is known.
    """

    path: Path
    columns: Mapping[str, Column]
    fold_of: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """A method with its runs.

    Attributes:
        name: What it is called.
        runs: Its runs; of a study, that of the study itself and those of its replicas.
        skipped: Runs that are not complete, with the reason of each.
    """

    name: str
    runs: tuple[Run, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Columns that all runs have."""
        first, *others = (run.columns for run in self.runs)
        return [name for name in first if all(name in other for other in others)]


def tables_of(given: str) -> list[Path]:
    """The tables of a side: the results of a study with those of its replicas, or one or more tables.

    Args:
        given: A folder of results, a table, or tables separated by commas.

    Raises:
        ConfigError: A folder has no scores, or a file is missing.
    """
    whole = Path(given).expanduser()
    paths = [whole] if whole.exists() else [Path(part.strip()).expanduser() for part in given.split(SEPARATOR)]
    if len(paths) == 1 and paths[0].is_dir():
        study = Study("", paths[0], paths[0])
        tables = [each.results_csv for each in (study, *study.replicas) if each.results_csv.is_file()]
        if not tables:
            raise ConfigError(
                f"{paths[0]} holds no results.csv. Give the results folder of a study, or tables of scores.",
                code="scores-missing",
                file=study.results_csv,
            )
        return [path.resolve() for path in tables]
    for path in paths:
        if not path.is_file():
            kind = "is a folder, which cannot be one of several tables" if path.is_dir() else "does not exist"
            raise ConfigError(
                f"{path} {kind}. Give a results folder, or tables of scores separated by commas.",
                code="table-missing",
                file=path,
            )
    return [path.resolve() for path in paths]


def absolute_side(given: str) -> str:
    """A side with absolute paths, whose tables are found when it is opened.

    Raises:
        ConfigError: As ``tables_of``.
    """
    whole, tables = Path(given).expanduser(), tables_of(given)
    return str(whole.resolve()) if whole.is_dir() else SEPARATOR.join(map(str, tables))


def open_side(name: str, tables: Sequence[Path]) -> Side:
    """Read the runs of a method.

    Raises:
        DatasetError: A table cannot be read.
        ConfigError: Two runs are the same, or models of two runs were trained with other settings than the seed.
    """
    check_replicas(tables)
    runs = [_read(path) for path in tables]
    patients = [{case_id for column in run.columns.values() for case_id in column.scores} for run in runs]
    most = max(map(len, patients))
    whole = [run for run, ids in zip(runs, patients, strict=True) if len(ids) == most]
    skipped = {
        str(run.path): f"it has scores of {len(ids)} of {counted(most, 'patient')}"
        for run, ids in zip(runs, patients, strict=True)
        if len(ids) < most
    }
    return Side(name, tuple(whole), skipped)


def _read(path: Path) -> Run:
    _, columns = read_columns(path)
    if not columns:
        raise DatasetError(
            f"{path} has no column of a known metric, such as lesion_dice: the class, an underscore and the metric. "
            "Evaluate with mist_evaluate.",
            code="columns-unknown",
            file=path,
        )
    study = _study_of(path)
    folds: dict[str, int] = {}
    if study.train_paths.is_file():
        with suppress(DatasetError):  # folds are only described
            folds = dict(read_train_paths(study.train_paths).fold_of)
    return Run(path, columns, folds)


def _study_of(table: Path) -> Study:
    return Study("", table.parent, table.parent)


def check_replicas(tables: Sequence[Path]) -> None:
    """Check that runs of a side are different trainings with the same settings, as far as their passports say.

    Raises:
        ConfigError: Two are the same training, or the settings of two differ in more than the seed.
    """
    known = {table: passports for table in tables if (passports := _passports(_study_of(table)))}
    twice = [digest for digest, count in Counter(map(_weights, known.values())).items() if count > 1]
    same = [table for table, passports in known.items() if _weights(passports) in twice]
    same += [table for table, count in Counter(tables).items() if count > 1]
    if same:
        raise ConfigError(
            f"{few(same)} hold scores of the same models, so they are one run. Give each run once, with its own seed.",
            code="run-duplicate",
            file=same[0],
            found=same,
        )
    for table, passports in list(known.items())[1:]:
        first, before = next(iter(known.items()))
        for fold in sorted(passports.keys() & before.keys()):
            differing = _differing(before[fold], passports[fold])
            if differing:
                raise ConfigError(
                    f"The model of fold {fold} of {table} was not trained with the settings of {first}: "
                    f"{'; '.join(differing)}. Runs of one side differ in their seed only; compare other settings as "
                    "another side, or retrain with mist_train --seeds.",
                    code="runs-differ",
                    file=table,
                    found=differing,
                )


def _passports(study: Study) -> dict[int, Passport]:
    found = {}
    for path in sorted(study.models.glob("fold_*.json")):
        with suppress(ConfigError):  # of another version; mist_status reports it
            passport = read_passport(path.with_suffix(".pt"))
            found[passport.fold] = passport
    return found


def _weights(passports: Mapping[int, Passport]) -> str:
    return json_hash({str(fold): passport.weights for fold, passport in passports.items()})


def _differing(one: Passport, other: Passport) -> list[str]:
    try:
        before, now = (settings(StudyConfig.model_validate(each.config), "training") for each in (one, other))
    except ValidationError:  # settings of another version
        return []
    return [message for path, message in changes(before, now).items() if path != "training.seed"]
