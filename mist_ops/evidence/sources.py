"""What a pack is made from: the records of a study, and whether every link from a model to its scans holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mist_ops.config import StudyConfig, read_config
from mist_ops.errors import CaseError, ConfigError, few
from mist_ops.evidence.names import ids_of
from mist_ops.evidence.scores import Scores, read_scores
from mist_ops.files import file_hash
from mist_ops.records.arrays import ArraysRecord, case_contents, read_record
from mist_ops.records.comparison import verify, without_kept
from mist_ops.records.history import Event, read_history
from mist_ops.records.kept import Kept, KeptArtifact
from mist_ops.records.passport import Passport, read_passport
from mist_ops.records.prediction import PredictionRecord, read_prediction_record
from mist_ops.records.reviews import Review, read_reviews
from mist_ops.study import Study


@dataclass(frozen=True)
class Evidence:
    """The records behind some models of a study.

    Attributes:
        config: config.json.
        passports: Passport of each model, by ``fold_0``.
        files: The passports as they are on disk.
        beside: Hashes of what is made from all models together, such as the guard and the calibration, by file name.
        arrays: Records of the arrays of each patient.
        held_out: Records of the predictions of held-out patients that the models made.
        tests: The same of test patients.
        scores: Scores of the former; None if there are none that belong to the models.
        unscored: Why there are none.
        reviews: Comments of people on patients.
        history: What people accepted, kept and judged.
        kept: What is kept although something changed.
    """

    config: StudyConfig
    passports: Mapping[str, Passport]
    files: Mapping[str, bytes]
    beside: Mapping[str, str]
    arrays: Mapping[str, ArraysRecord]
    held_out: Mapping[str, PredictionRecord]
    tests: Mapping[str, PredictionRecord]
    scores: Scores | None
    unscored: str
    reviews: Mapping[str, Review]
    history: Sequence[Event]
    kept: Sequence[KeptArtifact]

    @property
    def ids(self) -> frozenset[str]:
        """Every id that the records mention."""
        folds = [(each.training, each.validation, each.held_out) for each in self.passports.values()]
        contents = [each.content for each in self.passports.values()]
        contents += [
            each.pretrained.passport.content
            for each in self.passports.values()
            if each.pretrained and each.pretrained.passport and each.pretrained.passport.content
        ]
        judged = [str(event.facts["patient"]) for event in self.history if "patient" in event.facts]
        of_patients = [entry.key for entry in self.kept if entry.step in _OF_PATIENTS]
        of_patients += [str(event.facts["key"]) for event in self.history if event.facts.get("step") in _OF_PATIENTS]
        return ids_of(
            *(part for parts in folds for part in parts),
            *(part for each in contents for part in (each.training, each.validation)),
            *(self.arrays, self.held_out, self.tests, self.reviews, judged, of_patients),
        )


_OF_PATIENTS = ("preprocessing", "prediction", "test_prediction")
"""Steps whose artifacts are kept by patient."""


def models_of(model: Path) -> list[Path]:
    """The weights that a path stands for: one file, or those of all folds in a folder of models or results.

    Raises:
        ConfigError: The path does not exist, or the folder holds no model.
    """
    if model.is_file() or (model.suffix and not model.exists()):
        if not model.is_file():
            raise ConfigError(f"{model} does not exist. Check the path.", code="model-missing", file=model)
        return [model]
    for folder in (model, Study("", model, model).models):
        found = sorted(folder.glob("fold_*.pt"))
        if found:
            return found
    raise ConfigError(
        f"{model} holds no model. Give a file such as results/models/fold_0.pt, or the folder of a study's models.",
        code="model-missing",
        file=model,
    )


def gather(study: Study, weights: Sequence[Path]) -> Evidence:
    """Read the records behind some models, and check every link from the weights to the hashes of the scans.

    Raises:
        ConfigError: A model has no passport or does not match it, a link is missing, or the history was changed.
        DatasetError: The comments on patients cannot be read.
    """
    passports = {path: read_passport(path) for path in weights}
    for path, passport in passports.items():
        _check(study, path, passport)
    named = {f"fold_{passport.fold}": passport for passport in passports.values()}
    arrays = {}
    for case_id in ids_of(*((*each.training, *each.validation, *each.held_out) for each in named.values())):
        with suppress(CaseError):  # of a held-out patient; those of the others were checked
            arrays[case_id] = read_record(study, case_id)
    config = read_config(study.config)
    held_out, tests = _predictions(study, list(named.values()))
    scores = read_scores(study, arrays, held_out)
    entries = Kept(study).entries
    return Evidence(
        config=config,
        passports=named,
        files={f"fold_{passports[path].fold}": path.with_suffix(".json").read_bytes() for path in weights},
        beside=_beside(study, weights),
        arrays=arrays,
        held_out=held_out,
        tests=tests,
        scores=None if isinstance(scores, str) else scores,
        unscored=scores if isinstance(scores, str) else "",
        reviews=read_reviews(study.reviews),
        history=read_history(study.history),
        kept=entries,
    )


def _beside(study: Study, weights: Sequence[Path]) -> dict[str, str]:
    """The hashes of the guard and the calibration, if these are all models of the folder."""
    folder = weights[0].parent
    if not {path.name for path in folder.glob("*.pt")} <= {path.name for path in weights}:
        return {}
    return {path.name: file_hash(path) for path in (study.calibration, study.guard) if path.is_file()}


def _check(study: Study, weights: Path, passport: Passport) -> None:
    """Check the links of a model; what was kept excuses settings and code, but no bytes."""
    content = {**passport.content.validation, **passport.content.training}
    if file_hash(weights) != passport.weights:
        raise _refused(weights, "the weights do not match the passport")
    unknown, changed = [], []
    for case_id, expected in content.items():
        try:
            record = read_record(study, case_id)
        except CaseError:
            unknown.append(case_id)
            continue
        if not record.inputs:
            unknown.append(case_id)
        elif expected not in record.contents:
            changed.append(case_id)
    if unknown:
        raise _refused(weights, f"the scans behind the arrays of {few(sorted(unknown))} are not on record")
    if changed:
        raise _refused(weights, f"the arrays of {few(sorted(changed))} changed since the training")
    left = without_kept(Kept(study), weights, verify(weights, study, content), partial(case_contents, study))
    if left:
        raise _refused(weights, left.rstrip("."))


def _refused(weights: Path, problem: str) -> ConfigError:
    return ConfigError(
        f"There is no evidence for {weights}: {problem}. Restore what changed, retrain the model, give --numpy (the "
        "folder of its arrays), or keep a change of settings with mist_keep.",
        code="evidence-incomplete",
        file=weights,
        found=problem,
    )


def _predictions(
    study: Study, passports: Sequence[Passport]
) -> tuple[dict[str, PredictionRecord], dict[str, PredictionRecord]]:
    """The predictions of held-out and of test patients that these models made."""
    weights = {passport.fold: passport.weights for passport in passports}
    fold_of = {case_id: passport.fold for passport in passports for case_id in passport.held_out}
    read = {case_id: read_prediction_record(study.prediction_record("train", case_id)) for case_id in sorted(fold_of)}
    held_out = {
        case_id: record
        for case_id, record in read.items()
        if record and record.models == {fold_of[case_id]: weights[fold_of[case_id]]}
    }
    folder = study.prediction_record("test", "any").parent
    tests = {path.stem: read_prediction_record(path) for path in sorted(folder.glob("*.json"))}
    return held_out, {case_id: record for case_id, record in tests.items() if record and record.models == weights}
