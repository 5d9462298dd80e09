"""The comparison of studies, with their replicas, on the patients that they share."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import yaml
from starlette.responses import HTMLResponse

from mist_dagster.instance import addresses
from mist_dagster.instance.studies import registered_studies
from mist_dagster.site.contents import assignment_of, config_of, study_named, written
from mist_dagster.site.rendering import page
from mist_dagster.site.scores import Scored, scores_of
from mist_ops.comparison.compare import Pair, Verdict
from mist_ops.comparison.compare import compare as compare_sides
from mist_ops.comparison.report import notes
from mist_ops.comparison.sides import open_side, tables_of
from mist_ops.errors import ConfigError, MistError, counted
from mist_ops.evaluation.standings import Column, formatted
from mist_ops.files import stamp
from mist_ops.ranking.rank import rank
from mist_ops.records.comparison import differences
from mist_ops.records.passport import read_passport
from mist_ops.registry import METRICS
from mist_ops.study import Study

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_MOST_CHANGED = 6
_SIZE = 260
"""Of a scatter plot, in its own units."""


def compare(request: "Request") -> "Response":
    """The comparison of the studies in the query, ``study=a&study=b``; the first is the reference of the others."""
    keys = list(dict.fromkeys(request.query_params.getlist("study")))
    chosen = [study_named(key) for key in keys]
    scored = {study.key: found for study in chosen if (found := scores_of(study))}
    known = [study for study in chosen if study.key in scored]
    first, others = next(iter(known), None), known[1:]
    return HTMLResponse(
        page(
            "compare.html",
            studies=[study for study in registered_studies() if not study.original or study.key in keys],
            chosen=keys,
            without=[study.name for study in chosen if study.key not in scored],
            first=first,
            made={study.key: written(study.results_csv) for study in known},
            ranks=_ranks(known) if others else None,
            pairs=[_pair(known, place, scored) for place in range(1, len(known))],
            launchpads=_launchpads(known) if others else {},
        )
    )


def _pair(studies: Sequence[Study], place: int, scored: Mapping[str, Scored]) -> dict[str, Any]:
    """Everything on two studies: A, the first one, and B, the one at a place."""
    first, second = studies[0], studies[place]
    one, other = scored[first.key], scored[second.key]
    shared: dict[str, Any] = {"study": second, "passports": _passports(first, second)}
    try:
        pair = _compared(tuple(studies), _stamps(studies))[place - 1]
    except MistError as error:
        return {**shared, "problem": error.message, "rows": []}
    found = pair.verdicts
    return {
        **shared,
        "runs": (len(pair.first.runs), counted(len(pair.second.runs), "run")),
        "notes": list(notes([pair])),
        "rows": [_row(each) for each in found],
        "scatter": [
            _scatter(second, each.column, one.columns[each.column], other.columns[each.column], each.by_patient)
            for each in found
            if each.column in one.first
        ],
        "changed": _changed(first, second, one, found),
    }


def _stamps(studies: Sequence[Study]) -> tuple[tuple[int, ...], ...]:
    """Stamps of all tables of some studies and their replicas."""
    tables = [path for study in studies for path in _tables(study)]
    return tuple(tuple(stamp(path)) for path in tables)


def _tables(study: Study) -> list[Path]:
    """The tables of a study with those of its replicas; of a replica, its own."""
    return [study.results_csv] if study.original else tables_of(str(study.results))


@lru_cache(maxsize=32)
def _compared(studies: tuple[Study, ...], stamps: tuple[tuple[int, ...], ...]) -> Sequence[Pair]:
    """The comparison of studies, kept for the stamps of their tables."""
    return compare_sides([open_side(study.name, _tables(study)) for study in studies])


def _row(each: Verdict) -> dict[str, Any]:
    unit, found = METRICS[each.metric].unit, each.difference
    low, high = found.interval or (None, None)
    bounds = "" if low is None or high is None else f" [{low:+.3g}, {high:+.3g}]"
    own = max(abs(low or 0), abs(high or 0), abs(found.mean)) or 1
    detectable = found.detectable(each.tests)
    return {
        "class_name": each.class_name,
        "metric": each.metric,
        "difference": f"{found.mean:+.3g}{bounds} {unit}".rstrip(),
        "word": each.word,
        "advice": each.advice,
        "p": "" if found.p is None else f"{found.p:.2g}",
        "corrected": "" if each.corrected is None else f"{each.corrected:.2g}",
        "detectable": "" if detectable is None else f"{detectable:.2g} {unit}".rstrip(),
        "better": each.better,
        "worse": each.worse,
        "patients": len(each.by_patient),
        # From worse, at the left, to better; each row has its own unit, so zero is in the middle.
        "places": {
            name: f"{50 + 46 * each.sign * value / own:.1f}"
            for name, value in (("low", low), ("high", high), ("mean", found.mean))
            if value is not None
        },
    }


def _scatter(second: Study, name: str, one: Column, other: Column, ids: Mapping[str, float]) -> dict[str, Any]:
    """A plot of A against B: above the diagonal B has the higher score."""
    values = [value for case_id in ids for value in (one.scores[case_id], other.scores[case_id])]
    low, high = min(values), max(values)
    span = high - low or 1
    known = assignment_of(second)
    patients = known.fold_of if known else {}

    def place(value: float) -> float:
        return (value - low) / span * _SIZE

    return {
        "title": f"{one.class_name} {one.metric}",
        "low": formatted(low),
        "high": formatted(high),
        "unit": METRICS[one.metric].unit,
        "better": "above" if one.sign > 0 else "below",
        "points": [
            {
                "id": case_id,
                "x": f"{40 + place(one.scores[case_id]):.1f}",
                "y": f"{10 + _SIZE - place(other.scores[case_id]):.1f}",
                "address": addresses.patient(second, case_id) if case_id in patients else "",
                "text": f"{case_id}: {formatted(one.scores[case_id])} and {formatted(other.scores[case_id])}",
            }
            for case_id in ids
        ],
    }


def _changed(first: Study, second: Study, one: Scored, found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The patients whose first score of any class changed most, in units of its spread over the patients."""
    sizes: dict[str, tuple[float, str]] = {}
    for each in found:
        if each.column not in one.first:
            continue
        spread = math.sqrt(sum(value**2 for value in each.by_patient.values()) / len(each.by_patient)) or 1
        for case_id, value in each.by_patient.items():
            column = one.columns[each.column]
            text = f"{column.class_name} {column.metric} {value:+.3g}"
            sizes[case_id] = max(sizes.get(case_id, (0.0, "")), (abs(value) / spread, text))
    order = sorted(sizes, key=lambda case_id: (-sizes[case_id][0], case_id))[:_MOST_CHANGED]
    return [
        {"id": case_id, "text": sizes[case_id][1], "sides": [_side(study, case_id) for study in (first, second)]}
        for case_id in order
        if sizes[case_id][0]
    ]


def _side(study: Study, case_id: str) -> dict[str, Any]:
    assignment = assignment_of(study)
    listed = assignment is not None and case_id in assignment.fold_of
    return {
        "study": study,
        "address": addresses.patient(study, case_id) if listed else None,
        "picture": addresses.picture(study, case_id) if listed and study.cv_figure(case_id).is_file() else None,
    }


def _passports(first: Study, second: Study) -> list[tuple[int, list[str]]]:
    """How the models of each fold differ, in words."""
    configs = [config_of(study) for study in (first, second)]
    folds = set.intersection(*({*config.training.folds} if config else set() for config in configs))
    found = []
    for fold in sorted(folds):
        with suppress(ConfigError):  # a fold that is not trained in both
            found.append((fold, differences(read_passport(first.model(fold)), read_passport(second.model(fold)))))
    return found


def _ranks(studies: Sequence[Study]) -> dict[str, Any]:
    """The mean ranks on the patients with all scores in all studies."""
    stamps = tuple(tuple(stamp(study.results_csv)) for study in studies)
    return _ranked(tuple(studies), stamps)


@lru_cache(maxsize=32)
def _ranked(studies: tuple[Study, ...], stamps: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    try:
        ranking = rank([study.results_csv for study in studies], [study.name for study in studies], missing="drop")
    except MistError as error:
        return {"problem": error.message, "rows": [], "patients": 0}
    return {
        "problem": "",
        "patients": ranking.facts["patients"],
        "rows": [
            {str(name): (f"{value:.3g}" if isinstance(value, float) else value) for name, value in row.items()}
            for row in ranking.stability.to_dict("records")
        ],
    }


def _launchpads(studies: Sequence[Study]) -> dict[str, str]:
    """The launchpads that record what the page shows."""
    tables = [str(study.results_csv) for study in studies]
    sides = [table if study.original else str(study.results) for study, table in zip(studies, tables, strict=True)]
    return {
        "comparison": _launchpad("comparison", studies, {"sides": sides}),
        "ranking": _launchpad("ranking", studies, {"results": tables}),
    }


def _launchpad(tool: str, studies: Sequence[Study], config: Mapping[str, Sequence[str]]) -> str:
    """The launchpad of the job of a tool, filled in for these studies."""
    named = {**config, "names": [study.name for study in studies]}
    output = studies[0].results / f"{tool}_{'_'.join(study.key for study in studies)}.csv"
    query = {
        "config": yaml.safe_dump({"ops": {f"tools__{tool}": {"config": named}}}, sort_keys=False),
        "tags[0][key]": "dagster/partition",
        "tags[0][value]": str(output),
    }
    return f"{addresses.job(tool)}/setup?{urlencode(query)}"
