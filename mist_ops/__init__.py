"""Segmentation of 3-D medical images: from dataset.json to models, predictions and scores.

>>> from pathlib import Path
>>> import mist_ops
>>> from mist_ops.phantoms import write_phantoms
>>> data = write_phantoms(Path("data"), patients=4, size=(24, 26, 22))  # or a dataset.json of your own
>>> study = mist_ops.open_study("results", numpy="numpy", data=data)
>>> analysis = mist_ops.analyze(study, {"training.nfolds": 2})
>>> config = mist_ops.configure(
...     study, {"model.architecture": "nnunet-pocket", "training.epochs": 1, "training.min_steps_per_epoch": 2}
... )
>>> mist_ops.preprocess(study, progress=print)
Preprocessing 1/4: phantom_001
Preprocessing 2/4: phantom_002
Preprocessing 3/4: phantom_003
Preprocessing 4/4: phantom_004
Processed(4 done, 0 current, 0 failed)
>>> model = mist_ops.train(study, fold=0, device="cpu")
>>> model.best.validation_loss < 2
True
>>> mist_ops.predict(study, device="cpu").raise_for_failures()
Processed(2 done, 0 current, 0 failed)
>>> scores = mist_ops.evaluate(study)
>>> list(scores.table.columns)
['whole_lesion_dice', 'whole_lesion_haus95', 'core_dice', 'core_haus95']

Names load on first use, so ``import mist_ops`` takes no time. The modules of this package compute; none of them imports
Dagster or prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mist_ops.api import (
        Analysis,
        Processed,
        Progress,
        Scores,
        analyze,
        configure,
        evaluate,
        evaluate_files,
        open_study,
        predict,
        predict_files,
        predict_tests,
        preprocess,
        rank,
        train,
    )
    from mist_ops.config import StudyConfig
    from mist_ops.errors import MistError
    from mist_ops.ranking.rank import Ranking
    from mist_ops.records.passport import Passport
    from mist_ops.study import Study

__all__ = [
    "Analysis",
    "MistError",
    "Passport",
    "Processed",
    "Progress",
    "Ranking",
    "Scores",
    "Study",
    "StudyConfig",
    "analyze",
    "configure",
    "evaluate",
    "evaluate_files",
    "open_study",
    "predict",
    "predict_files",
    "predict_tests",
    "preprocess",
    "rank",
    "train",
]


if not TYPE_CHECKING:  # or mypy would accept any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from mist_ops import api  # pandas and the file formats take half a second to load

        return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
