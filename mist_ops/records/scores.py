"""Record of what a table of scores was computed from: the ``inputs`` of results_summary.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mist_ops.files import read_object


class ScoreInputs(BaseModel):
    """The inputs of a study's scores, by patient id and not by path, so that results may be moved.

    Attributes:
        settings: Digest of the settings of evaluation.
        version: Version of the evaluation step.
        masks: SHA-256 of each scored patient's mask; None if the file was missing.
        predictions: SHA-256 of each scored patient's prediction; None if the file was missing.
    """

    model_config = ConfigDict(frozen=True)

    settings: str
    version: int = 1
    masks: dict[str, str | None]
    predictions: dict[str, str | None]

    def changes(self, now: ScoreInputs, patients: Collection[str]) -> Iterator[str]:
        """Name each input that changed since.

        Args:
            now: The inputs of a new evaluation.
            patients: All patients of the study, those whose fold is not trained included.
        """
        if self.settings != now.settings:
            yield "the settings of evaluation"
        if self.version != now.version:
            yield "the version of evaluation"
        if not self.masks.keys() <= set(patients):
            yield "the patients"
        for case_id, mask in now.masks.items():
            if self.masks.get(case_id) != mask:
                yield f"the mask of {case_id}"
            if self.predictions.get(case_id) != now.predictions.get(case_id):
                yield f"the prediction of {case_id}"


def read_score_inputs(summary: Path) -> ScoreInputs | None:
    """Read the inputs from the summary beside a results.csv; None if they are missing or unreadable."""
    try:
        return ScoreInputs.model_validate(read_object(summary)["inputs"])
    except (OSError, ValueError, KeyError):
        return None
