"""Content hashes of the arrays that a fold uses."""

from __future__ import annotations

from collections.abc import Mapping

from mist_ops.config import StudyConfig
from mist_ops.dataset import Fold
from mist_ops.records.arrays import read_record
from mist_ops.study import Study
from mist_ops.training.plan import read_arrays


def manifest(study: Study, fold: Fold, config: StudyConfig) -> dict[str, Mapping[str, str]]:
    """Content hash of what training reads of each case, by use: ``training``, ``validation`` and ``held_out``."""
    parts = read_arrays(config)
    uses = {"training": fold.training, "validation": fold.validation, "held_out": fold.held_out}
    return {
        use: {case_id: read_record(study, case_id).content_of(parts) for case_id in sorted(ids)}
        for use, ids in uses.items()
    }
