"""Scores of any pairs of masks."""

from enum import Enum
from functools import partial
from pathlib import Path
from typing import cast, get_args

import dagster as dg
from pydantic import Field

from mist_dagster import metadata
from mist_dagster.provenance import collect, hashed, interruptible
from mist_dagster.runtime.progress import Progress
from mist_dagster.tools.record import finish, recorded, tool_asset
from mist_ops.evaluation.picture import draw_scores
from mist_ops.evaluation.score import Absent, read_evaluation
from mist_ops.evaluation.table import (
    check_output,
    evaluate,
    figure_path,
    read_pairs,
    read_summary,
    worst_first,
    write_evaluation,
)

AbsentScore = Enum("AbsentScore", get_args(Absent))  # type: ignore[misc]
"""The choices of the launchpad, which shows the names of an enumeration."""


class EvaluationTool(dg.Config):
    """What to score, and how."""

    config_file: str = Field(description="config.json, or a JSON file with classes and metrics only.")
    paths_csv: str = Field(description="Table with the columns id, mask and prediction.")
    workers: int = Field(1, description="Processes that score cases.")
    validate_masks: bool = Field(False, description="Refuse masks with labels that are not known.")
    absent: AbsentScore = Field(AbsentScore["best"], description="Score of a class that is in neither mask.")
    figures: bool = Field(True, description="Draw the distribution of the scores.")


@tool_asset("csv")
def evaluation(
    context: dg.AssetExecutionContext, config: EvaluationTool, progress: dg.ResourceParam[Progress]
) -> dg.MaterializeResult:
    """A table of scores, and what stands beside it."""
    wanted, pairs = read_evaluation(Path(config.config_file)), read_pairs(Path(config.paths_csv))
    absent = cast(Absent, config.absent.name)
    inputs = hashed(
        config=[Path(config.config_file)],
        masks=[pair.mask for pair in pairs],
        predictions=[pair.prediction for pair in pairs],
    )
    output = Path(context.partition_key)
    files = [file for pair in pairs for file in (pair.mask, pair.prediction)]
    check_output(output, [Path(config.config_file), Path(config.paths_csv), *files])
    with interruptible(context):
        known = wanted.known if config.validate_masks else None
        scored = evaluate(pairs, wanted.classes, config.workers, known, absent)
        rows, failures = collect(progress.track(scored, "Evaluating", len(pairs)), progress)
    write_evaluation(output, pairs, wanted.classes, rows, failures, absent)
    draw = partial(draw_scores, rows, failures, wanted.classes, figure_path(output), output.stem)
    plot = metadata.drawn(figure_path(output), draw if config.figures else None, "scores")
    finish((rows, failures))
    shown: metadata.Metadata = {
        **plot,
        **metadata.means(read_summary(output)),
        "lowest first": metadata.table(worst_first(rows)),
    }
    return recorded(context, output, inputs, shown)
