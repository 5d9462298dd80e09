"""Stale artifacts that a person keeps: "this change does not matter", with a reason, until something else changes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from mist_dagster.freshness.rebuild import Recorder
from mist_dagster.launch import Launcher
from mist_dagster.stages import WHOLE, Inspection, Stage, stale_partitions, tracked, version_on_record
from mist_dagster.stages.settings import adopt_config
from mist_ops.errors import ConfigError, counted, few
from mist_ops.records.history import record_kept
from mist_ops.records.kept import KeptArtifact, read_kept, write_kept
from mist_ops.records.passport import read_passport, write_passport
from mist_ops.study import Study


@dataclass(frozen=True)
class Choice:
    """Which artifacts: those that match all that is given.

    Attributes:
        stage: Name of a stage; None for all.
        artifacts: Patients, folds (``fold_0``) or names of files; None for all.
        change: A part of what the status says of the change, such as the name of a setting; None for every change.
    """

    stage: str | None = None
    artifacts: Collection[str] | None = None
    change: str | None = None

    def includes(self, stage: Stage, key: str) -> bool:
        """Whether an artifact is one of those."""
        return self.stage in (None, stage.name) and (self.artifacts is None or key in self.artifacts)

    def changes(self, changes: Iterable[str]) -> list[str]:
        """The chosen ones of some changes."""
        return [text for text in changes if self.change is None or self.change in text]


def keep(launcher: Launcher, study: Study, choice: Choice, reason: str) -> list[KeptArtifact]:
    """Keep stale artifacts as they are: from now on they are current, until something else changes.

    What follows from an artifact that is kept is current as well, and is not kept itself.

    Raises:
        ConfigError: Nothing is chosen, no reason is given, or no chosen artifact is stale and exists.
    """
    _check(choice, reason)
    seen = Inspection(study)
    made: list[tuple[Stage, KeptArtifact]] = []
    impossible: dict[str, str] = {}
    for stage in tracked():
        found = dict(stale_partitions(stage, seen))
        entries = []
        for key in (key for key in found if choice.includes(stage, key)):
            stale = seen.kept.stale.get((stage.kept_as, key))
            changes = choice.changes(stale.changes if stale else [found[key]])
            if changes and (stale is None or stale.content is None):
                impossible[f"{stage.doing.lower()} {key}"] = found[key]
            elif changes and stale:
                today = date.today().isoformat()
                entries.append(stale.keep((stage.kept_as, key), changes, reason, today))
        if entries:
            seen.kept.entries = (*seen.kept.entries, *entries)
            made += [(stage, entry) for entry in entries]
            found = dict(stale_partitions(stage, seen))
        seen.stale[stage.name] = found
    if not made:
        raise ConfigError(_why_nothing(impossible, seen), code="nothing-to-keep", found=list(impossible))
    write_kept(study.kept, seen.kept.entries)
    record_kept(study, [entry for _, entry in made], kept=True)
    _note_in_passports(study)
    _record(launcher, study, made, seen)
    return [entry for _, entry in made]


def undo(launcher: Launcher, study: Study, choice: Choice) -> list[KeptArtifact]:
    """Make stale again what was kept; return what was."""
    stages = {stage.kept_as: stage for stage in tracked()}
    entries = read_kept(study.kept)
    removed = [
        entry for entry in entries if choice.includes(stages[entry.step], entry.key) and choice.changes(entry.changes)
    ]
    if not removed:
        raise ConfigError(
            f"Nothing that matches was kept in {study.results}. mist_status lists what was.", code="nothing-to-keep"
        )
    write_kept(study.kept, (entry for entry in entries if entry not in removed))
    record_kept(study, removed, kept=False)
    _note_in_passports(study)
    seen = Inspection(study)
    for stage in tracked():
        seen.stale[stage.name] = stale_partitions(stage, seen)
    _record(launcher, study, [(stages[entry.step], entry) for entry in removed], seen)
    return removed


def _check(choice: Choice, reason: str) -> None:
    if not reason.strip():
        raise ConfigError("Give a --reason: it is shown wherever the result is.", code="reason-missing")
    if choice == Choice():
        raise ConfigError(
            "Choose what to keep with --stage, --only or --change.", code="flags-incomplete", field="--change"
        )


def _why_nothing(impossible: dict[str, str], seen: Inspection) -> str:
    if impossible:
        what, why = next(iter(impossible.items()))
        more = f" ({len(impossible) - 1} more like it)" if len(impossible) > 1 else ""
        return (
            f"Nothing was kept. What is missing, or waits for something stale, cannot be kept: {what}: {why}{more}. "
            "Keep or rebuild what it is made from first."
        )
    stale = {text for reasons in seen.stale.values() for reason in reasons.values() for text in reason.split("; ")}
    listed = f"What changed: {few(sorted(stale))}." if stale else "Everything is current."
    return f"Nothing was kept: no stale artifact matches. {listed}"


def _note_in_passports(study: Study) -> None:
    """Bring what passports say of their models up to date."""
    entries = read_kept(study.kept)
    for path in sorted(study.models.glob("fold_*.pt")):
        try:
            passport = read_passport(path)
        except ConfigError:
            continue
        known = [entry for entry in entries if (entry.step, entry.key) == ("training", path.stem)]
        noted = tuple(str(entry) for entry in known if entry.content == passport.weights)
        if noted != passport.kept:
            write_passport(path.with_suffix(".json"), passport.model_copy(update={"kept": noted}))


def _record(launcher: Launcher, study: Study, made: Sequence[tuple[Stage, KeptArtifact]], seen: Inspection) -> None:
    """Record in Dagster which of the artifacts are current now, and which are not any more."""
    # Else Dagster would take an edit that it learns of later for another change.
    adopt_config(launcher.instance, study, seen.config, "config.json was edited")
    for observing in {stage.observes for stage, _ in made if stage.observes and study.data}:
        launcher.run_stage(study, observing)
    recorder = Recorder(launcher, study)
    for stage, entry in made:
        key = entry.key if stage.partitions else WHOLE
        version = version_on_record(stage, study, key)
        if version is not None:
            current = entry.key not in seen.stale[stage.name]
            text = f"It is {entry}." if current else "No longer kept."
            recorder.record(stage.target, key or None, version, current=current, description=text)


def report_kept(entries: Sequence[KeptArtifact], verb: str) -> str:
    """A line on what was kept."""
    keys = list(dict.fromkeys(entry.key for entry in entries))
    return f"{verb} {counted(len(entries), 'artifact')}: {few(keys)}."
