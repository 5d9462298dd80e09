"""Weights from which a training may start, as a value. Loads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from mist_ops.dataset import Fold
from mist_ops.errors import ConfigError, counted, few
from mist_ops.records.passport import read_passport
from mist_ops.study import Study

InputChannels: TypeAlias = Literal["average", "first", "skip"]


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights.

    Attributes:
        weights: Weights of a trained network.
        config: config.json that it was trained with.
        input_channels: How tensors that see the image are adapted to another number of channels: every channel gets the
            mean over the pretrained channels or the first of them, or keeps its random initialization.
        whole: Whether all of the network starts from them, and not only its encoder.
    """

    weights: Path
    config: Path
    input_channels: InputChannels = "average"
    whole: bool = False


def present_model(study: Study, fold: Fold) -> Pretrained | None:
    """The present model of a fold, to start its next training from; None if it has none.

    Raises:
        ConfigError: The model was trained with patients that select weights of the fold or are held out from it, as
            after an edit of the folds, or it has no passport that shows that it was not.
    """
    weights = study.model(fold.index)
    if not weights.is_file():
        return None
    seen = sorted({*fold.validation, *fold.held_out} & set(read_passport(weights).training))
    if seen:
        raise ConfigError(
            f"The model of fold {fold.index} was trained with {counted(len(seen), 'patient')} that the fold now "
            f"validates or holds out ({few(seen)}). Train it without --warm-start.",
            code="model-saw-patient",
            file=weights,
            found=seen,
        )
    return Pretrained(weights, study.config, whole=True)
