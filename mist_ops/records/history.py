"""What people accepted, kept and judged of a study, in order: ``results/history.jsonl``, one JSON object a line.

Lines are only appended. Each holds the hash of the line before it, so that a line that was changed, removed or inserted
later shows. Lines at the end can be removed without a trace in the file itself; an evidence pack that holds them shows
it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from mist_ops.errors import ConfigError
from mist_ops.files import file_hash
from mist_ops.records.kept import KeptArtifact
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

Kind: TypeAlias = Literal["accepted", "kept", "no longer kept", "verdict", "ranking", "comparison"]
"""What somebody did."""

START = "0" * 64
"""Stands for the hash of the line before the first."""


class Event(BaseModel):
    """A line of the history.

    Attributes:
        previous: SHA-256 of the line before, without its end of line.
        at: When it was appended, in UTC.
        kind: What was done.
        facts: Hashes and values that say to what; no paths and no notes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    previous: str
    at: str
    kind: Kind
    facts: Mapping[str, Any]

    @property
    def line(self) -> bytes:
        """The event as it is written, without an end of line."""
        return json.dumps(self.model_dump(mode="json")).encode("ascii")


def append(study: Study, kind: Kind, *facts: Mapping[str, Any]) -> None:
    """Append an event for each of some facts; several processes may do so at the same time.

    Raises:
        OSError: The file cannot be written.
    """
    study.history.parent.mkdir(parents=True, exist_ok=True)
    with study.history.open("a+b") as stream:
        with suppress(OSError):  # Lustre often has no locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        lines = stream.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # of a process that was killed
            if _parsed(lines[-1]):
                stream.write(b"\n")
            else:
                stream.truncate(sum(map(len, lines[:-1])))
                lines = lines[:-1]
        previous, now = _hash(lines[-1]) if lines else START, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        for each in facts:
            event = Event(previous=previous, at=now, kind=kind, facts=each)
            stream.write(event.line + b"\n")
            previous = _hash(event.line)
        stream.flush()
        os.fsync(stream.fileno())


def read_history(path: Path) -> tuple[Event, ...]:
    """Read the events; none if there is no file. A last line that a killed process left incomplete is skipped.

    Raises:
        ConfigError: A line was changed, removed or inserted.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ()
    return tuple(_chained(path, content))


def _chained(path: Path, content: bytes) -> Iterator[Event]:
    previous = START
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        event = _parsed(line)
        if event is None and not line.endswith(b"\n"):
            return
        if event is None or event.previous != previous:
            raise ConfigError(
                f"{path}: line {number} does not follow the line before it: the history was changed. Restore it from a "
                "backup.",
                code="history-changed",
                file=path,
                found=number,
            )
        previous = _hash(line)
        yield event


def _parsed(line: bytes) -> Event | None:
    try:
        return Event.model_validate_json(line)
    except ValidationError:
        return None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def rechained(events: Iterable[Event]) -> Iterator[Event]:
    """Chain events again, as after their facts were changed."""
    previous = START
    for event in events:
        chained = event.model_copy(update={"previous": previous})
        previous = _hash(chained.line)
        yield chained


def record_accepted(study: Study) -> None:
    """Append that the scores in accepted.csv were accepted, with the models that they belong to."""
    weights = {}
    for path in sorted(study.models.glob("fold_*.pt")):
        with suppress(ConfigError):  # of another program
            weights[path.stem] = read_passport(path).weights
    append(study, "accepted", {"scores": file_hash(study.accepted_csv), "models": weights})


def record_kept(study: Study, entries: Sequence[KeptArtifact], *, kept: bool) -> None:
    """Append that artifacts were kept although something changed, or that they are not any more."""
    facts = [entry.model_dump(mode="json", exclude={"date", "inputs"}) for entry in entries]
    append(study, "kept" if kept else "no longer kept", *facts)


def record_ranking(tables: Mapping[str, Path], ranking: Path) -> None:
    """Append to the history of each study whose results.csv was ranked what it was ranked with, and the result.

    Args:
        tables: The tables of scores, by the names in the ranking.
        ranking: The table of ranks.
    """
    facts = {"scores": {name: file_hash(path) for name, path in tables.items()}, "ranking": file_hash(ranking)}
    for path in tables.values():
        study = Study("", path.parent, path.parent)
        if path == study.results_csv and study.config.is_file():
            with suppress(PermissionError):  # a study of somebody else
                append(study, "ranking", facts)
