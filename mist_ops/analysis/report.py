"""The data dump: a description of the dataset, as JSON and as Markdown.

The layout of data_dump.json is MIST's; all numbers are computed from all voxels, without sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from mist_ops.analysis.dump import DataDump, Statistics
from mist_ops.analysis.intensities import Intensities, pooled
from mist_ops.analysis.measures import CaseMeasures, measure_case
from mist_ops.analysis.narrative import markdown, observations
from mist_ops.analysis.statistics import statistics
from mist_ops.boxes import read_boxes
from mist_ops.config import read_config
from mist_ops.dataset import Case, read_train_paths
from mist_ops.errors import CaseError, DatasetError, listing
from mist_ops.files import write_json, write_text
from mist_ops.study import Study
from mist_ops.workers import Outcome, outcomes


def data_dump(study: Study, workers: int = 1) -> Iterator[Outcome[Case, CaseMeasures]]:
    """Measure the training cases of an analyzed study; when exhausted, write data_dump.json and data_dump.md.

    A case that cannot be measured is excluded, and listed in both files.

    Args:
        study: With config.json, train_paths.csv and, if images are cropped, fg_bboxes.csv.
        workers: Processes that read cases; they do not affect the files.

    Yields:
        The outcome of each case, without its intensities, which are pooled to bound the memory.

    Raises:
        MistError: The study is not analyzed (on the call), or no case could be measured (at the end).
    """
    config, cases = read_config(study.config), read_train_paths(study.train_paths).cases
    boxes = read_boxes(study) if config.preprocessing.crop_to_foreground else {}
    measure = partial(measure_case, config=config, boxes=boxes)

    def run() -> Iterator[Outcome[Case, CaseMeasures]]:
        measured: list[CaseMeasures] = []
        pool: dict[str, Intensities] = {}
        excluded: dict[str, str] = {}
        for outcome in outcomes(measure, cases, workers):
            if outcome.result is None:
                excluded[outcome.item.id] = _problem(outcome.error)
                yield outcome
                continue
            for name, part in outcome.result.intensities.items():
                pool[name] = pooled(pool[name], part) if name in pool else part
            measured.append(replace(outcome.result, intensities={}))
            yield Outcome(outcome.item, measured[-1])
        if not measured:
            raise DatasetError(
                "No case could be measured, and nothing was written: "
                + listing([f"Case '{case_id}': {problem}" for case_id, problem in excluded.items()]),
                code="cases-unusable",
                found=list(excluded),
            )
        write_dump(study, build_dump(study, statistics(config, measured, pool, excluded)))

    return run()


def write_dump(study: Study, dump: DataDump) -> None:
    """Write a data dump as JSON and as Markdown."""
    write_json(study.data_dump, dump.model_dump())
    write_text(study.data_dump_md, markdown(dump))


def build_dump(study: Study, numbers: Statistics) -> DataDump:
    """Add observations to the statistics of a study."""
    config_path = str(study.config.resolve())
    return DataDump(**dict(numbers), observations=observations(numbers), mist_config_path=config_path)


def _problem(error: Exception | None) -> str:
    return error.problem if isinstance(error, CaseError) else str(error)
