"""The structures of a study, which its masks and predictions are compared by."""

from __future__ import annotations

from collections.abc import Mapping

from mist_ops.config import StudyConfig
from mist_ops.pictures import label_names

Structures = Mapping[str, tuple[int, ...]]
"""Labels by the name of the structure that they form."""


def structures_of(config: StudyConfig) -> Structures:
    """The scored classes, and each label that is not a class by itself."""
    found = {name: tuple(scored.labels) for name, scored in config.evaluation.items()}
    names = label_names(found)
    alone = [label for label in config.dataset_info.labels if label and (label,) not in found.values()]
    return {**found, **{names.get(label, f"label {label}"): (label,) for label in alone}}
