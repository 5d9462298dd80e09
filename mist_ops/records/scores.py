"""Record of what a table of scores was computed from: the ``inputs`` of results_summary.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mist_ops.config import StudyConfig
from mist_ops.errors import few
from mist_ops.files import json_hash, read_object
from mist_ops.steps import changed_settings


class ScoreInputs(BaseModel):
    """The inputs of a study's scores, by patient id and not by path, so that results may be moved.

    Attributes:
        settings: The settings of evaluation by dotted path; a digest of them in records of version 0.9 and earlier.
        version: Version of the evaluation step.
        masks: SHA-256 of each scored patient's mask; None if the file was missing.
        predictions: SHA-256 of each scored patient's prediction; None if the file was missing.
    """

    model_config = ConfigDict(frozen=True)

    settings: dict[str, Any] | str
    version: int = 1
    masks: dict[str, str | None]
    predictions: dict[str, str | None]

    @property
    def content(self) -> str:
        """Hash of the content of the scored files."""
        return json_hash([self.masks, self.predictions])

    def changes(self, now: ScoreInputs, config: StudyConfig, patients: Collection[str]) -> Iterator[str]:
        """Name each input that changed since.

        Args:
            now: The inputs of a new evaluation.
            config: Its settings.
            patients: All patients of the study, those whose fold is not trained included.
        """
        yield from changed_settings(self.settings, config, "evaluation").values()
        if self.version != now.version:
            yield f"the evaluation code changed from version {self.version} to {now.version}"
        left = set(patients)
        gone = [case_id for case_id in self.masks if case_id not in left]
        if gone:
            yield f"{few(gone)} {'is' if len(gone) == 1 else 'are'} gone"
        added = [case_id for case_id in now.masks if case_id not in self.masks]
        if added:
            yield f"{few(added)} {'was' if len(added) == 1 else 'were'} added"
        known = [case_id for case_id in now.masks if case_id in self.masks]
        for name, before, after in (
            ("mask", self.masks, now.masks),
            ("prediction", self.predictions, now.predictions),
        ):
            changed = [case_id for case_id in known if before.get(case_id) != after.get(case_id)]
            if changed:
                yield f"the {name}{'' if len(changed) == 1 else 's'} of {few(changed)} changed"


def read_score_inputs(summary: Path) -> ScoreInputs | None:
    """Read the inputs from the summary beside a results.csv; None if they are missing or unreadable."""
    try:
        return ScoreInputs.model_validate(read_object(summary)["inputs"])
    except (OSError, ValueError, KeyError):
        return None
