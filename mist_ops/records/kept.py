"""Stale artifacts that a person declared current: ``results/records/kept.json``, a list of what was kept and why.

What was kept is bound to the artifact and to the content of its input files: once either changes, or another setting
does, the artifact is stale as before. Messages on settings name both values, so they need no content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mist_ops.errors import ConfigError
from mist_ops.files import write_json
from mist_ops.study import Study

Artifact = tuple[str, str]
"""The step that makes an artifact, and the id of its patient, its fold (``fold_0``) or the name of its file."""


class KeptArtifact(BaseModel):
    """An artifact that was kept although it is stale.

    Attributes:
        step: The step that makes it.
        key: Its patient, its fold or its file.
        changes: What changed and does not matter, as the status says it.
        reason: Why it does not matter.
        date: When it was kept: ``2026-01-31``.
        content: Hash of the artifact.
        inputs: Hash of the content of the files that it would be made from.
    """

    model_config = ConfigDict(frozen=True)

    step: str
    key: str
    changes: tuple[str, ...]
    reason: str
    date: str
    content: str
    inputs: str

    def __str__(self) -> str:
        return f"kept on {self.date}: {self.reason} ({'; '.join(self.changes)})"


@dataclass(frozen=True)
class Stale:
    """A stale artifact: what changed, its own hash (None if it is missing), and what hashes its inputs."""

    changes: tuple[str, ...]
    content: str | None
    inputs: Callable[[], str]

    def keep(self, artifact: Artifact, changes: Iterable[str], reason: str, date: str) -> KeptArtifact:
        """The entry that keeps this artifact; it must exist."""
        assert self.content is not None
        step, key = artifact
        return KeptArtifact(
            step=step,
            key=key,
            changes=tuple(changes),
            reason=reason,
            date=date,
            content=self.content,
            inputs=self.inputs(),
        )


_ENTRIES = TypeAdapter(tuple[KeptArtifact, ...])


class Kept:
    """What was kept of a study, and the artifacts that were compared with it.

    Attributes:
        entries: What was kept.
        applied: Artifacts with changes that were kept, and the entries that keep them.
        stale: Artifacts with changes that were not kept.
    """

    def __init__(self, study: Study) -> None:
        self.entries = read_kept(study.kept)
        self.applied: dict[Artifact, list[KeptArtifact]] = {}
        self.stale: dict[Artifact, Stale] = {}

    def left(self, artifact: Artifact, changes: Sequence[str], content: str | None, inputs: Callable[[], str]) -> str:
        """Return what changed of an artifact without what was kept: messages joined by semicolons, or nothing.

        Args:
            artifact: The artifact.
            changes: What changed since it was made.
            content: Its hash; None if it is missing.
            inputs: Returns a hash of the content of the files that it would be made from.
        """
        parts = tuple(part for message in changes for part in message.rstrip(".").split("; "))
        known = [entry for entry in self.entries if (entry.step, entry.key) == artifact and entry.content == content]
        used = [entry for entry in known if set(entry.changes) & set(parts) and entry.inputs == inputs()]
        left = tuple(part for part in parts if not any(part in entry.changes for entry in used))
        if used:
            self.applied[artifact] = used
        self.stale.pop(artifact, None)
        if left:
            self.stale[artifact] = Stale(left, content, inputs)
        return "; ".join(left)


def read_kept(path: Path) -> tuple[KeptArtifact, ...]:
    """Read what was kept; nothing if the file does not exist.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return _ENTRIES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not valid. Delete it, which makes stale again what was kept, or restore it.",
            code="kept-invalid",
            file=path,
        ) from error


def write_kept(path: Path, entries: Iterable[KeptArtifact]) -> None:
    """Write what was kept; without entries, delete the file."""
    found = [entry.model_dump(mode="json") for entry in entries]
    if found:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    else:
        path.unlink(missing_ok=True)
