"""The postprocessing strategy that raises the scores of a study's cross-validation predictions."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.partitions import StudyPartitions
from mist_dagster.provenance import CODE_VERSION, asset_key, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.stages import STAGES
from mist_dagster.stages.records import recording
from mist_ops.config import read_config
from mist_ops.dataset import read_train_paths
from mist_ops.errors import few
from mist_ops.evaluation.objective import mean_overlap
from mist_ops.evaluation.score import Classes
from mist_ops.files import file_hash, write_json
from mist_ops.postprocessing.case import Prediction
from mist_ops.postprocessing.search import candidates, search
from mist_ops.postprocessing.strategy import write_strategy
from mist_ops.study import Study
from mist_ops.types import LabelMap


class SearchRun(dg.Config):
    """How to run the search."""

    workers: int = Field(1, description="Processes that try strategies on cases.")


def build(study: Study, partitions: StudyPartitions) -> list[dg.AssetsDefinition]:
    """strategy.json."""

    @dg.asset(
        key=asset_key(study, "postprocessing_strategy"),
        group_name=study.key,
        deps=[asset_key(study, name) for name in ("cv_prediction", "raw_case", "evaluation_settings")],
        code_version=CODE_VERSION,
        kinds={"json"},
    )
    def postprocessing_strategy(
        context: dg.AssetExecutionContext, config: SearchRun, progress: dg.ResourceParam[Progress]
    ) -> dg.MaterializeResult:
        """The postprocessing steps that raise the scores of held-out predictions; none if nothing helps."""
        settings, assignment = read_config(study.config), read_train_paths(study.train_paths)
        masks = {case.id: case.mask for case in assignment.cases if case.mask}
        predictions = [
            Prediction(case_id, study.cv_prediction(case_id))
            for case_id in masks
            if study.cv_prediction(case_id).exists()
        ]
        score = partial(_score, masks, settings.evaluation)
        with interruptible(context), recording(study, STAGES["choose_postprocessing"]):
            steps = candidates(settings.dataset_info.labels)
            choice = search(predictions, score, steps, assignment.fold_of, config.workers)
            write_strategy(study.strategy, choice.strategy)
            write_json(study.strategy_search, choice.to_json())
        for sentence in choice.failures.values():
            progress.problem(sentence)
        if choice.failures:
            raise dg.Failure(
                f"{len(choice.failures)} of {len(predictions)} patients could not be scored and did not count for "
                f"{study.strategy}: {few(list(choice.failures))}."
            )
        return dg.MaterializeResult(
            data_version=dg.DataVersion(file_hash(study.strategy)),
            metadata={
                "strategy": metadata.path(study.strategy),
                "steps": dg.MetadataValue.json(choice.to_json()["strategy"]),
                "search": metadata.path(study.strategy_search),
                "score before": choice.before,
                "score after": choice.after,
                **({} if choice.held_out is None else {"score after, of patients without a say": choice.held_out}),
                "patients": len(predictions) - len(choice.failures),
            },
        )

    return [postprocessing_strategy]


def _score(masks: Mapping[str, Path], classes: Classes, prediction: Prediction, labels: LabelMap) -> float:
    return mean_overlap(prediction.id, labels, masks, classes)
