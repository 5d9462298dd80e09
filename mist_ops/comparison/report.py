"""A comparison as a table, as a record, and in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mist_ops.comparison.compare import Pair, Verdict
from mist_ops.comparison.difference import LEVEL, POWER
from mist_ops.comparison.sides import Side
from mist_ops.errors import ConfigError, counted, few
from mist_ops.files import read_object, together, write_json
from mist_ops.registry import METRICS
from mist_ops.tables import write_rows
from mist_ops.types import Json


def rows(pairs: Iterable[Pair]) -> list[dict[str, Any]]:
    """A row for each column of each pair."""
    return [_row(pair, verdict) for pair in pairs for verdict in pair.verdicts]


def _row(pair: Pair, verdict: Verdict) -> dict[str, Any]:
    found = verdict.difference
    low, high = found.interval or (None, None)
    runs_a, runs_b = found.runs
    return {
        "a": pair.first.name,
        "b": pair.second.name,
        "column": verdict.column,
        "difference": found.mean,
        "low": low,
        "high": high,
        "p": found.p,
        "p_holm": verdict.corrected,
        "verdict": verdict.word,
        "patients": len(verdict.by_patient),
        "better": verdict.better,
        "worse": verdict.worse,
        "runs_a": runs_a,
        "runs_b": runs_b,
        "run_sd": None if found.uncertainty is None else found.uncertainty.noise**0.5,
        "detectable": found.detectable(verdict.tests),
        "more_runs": verdict.more_runs if verdict.word == "not distinguishable" else None,
    }


def sentence(pair: Pair, verdict: Verdict) -> str:
    """The verdict in words, with the difference and its interval."""
    found, unit = verdict.difference, METRICS[verdict.metric].unit
    interval = "" if found.interval is None else " [{:+.3g}, {:+.3g}]".format(*found.interval)
    size = f"{found.mean:+.3g}{interval} {unit}".rstrip()
    corrected = "" if verdict.corrected is None else f", p {verdict.corrected:.2g}"
    runs = "one run of each" if found.runs == (1, 1) else f"{found.runs[0]} and {counted(found.runs[1], 'run')}"
    advice = f"; {verdict.advice}" if verdict.advice else ""
    is_what = "is not distinguishable from" if verdict.word == "not distinguishable" else f"is {verdict.word} than"
    return f"{verdict.column}: {pair.second.name} {is_what} {pair.first.name}: {size}{corrected} ({runs}){advice}."


def notes(pairs: Sequence[Pair], extra: Side | None = None) -> Iterator[str]:
    """What a reader of the verdicts must know: runs and patients that do not count, and where the noise is from."""
    sides = {side.name: side for pair in pairs for side in (pair.first, pair.second)}
    for side in (*sides.values(), *([extra] if extra else [])):
        for path, reason in side.skipped.items():
            yield f"{side.name}: {path} is skipped: {reason}."
    for pair in pairs:
        patients = sorted({case_id for ids in pair.left_out.values() for case_id in ids})
        if patients:
            yield (
                f"{pair.first.name} and {pair.second.name}: {counted(len(patients), 'patient')} ({few(patients)}) "
                f"without a score in a run: excluded from {few(list(pair.left_out))}."
            )
        single = [side.name for side in (pair.first, pair.second) if len(side.runs) == 1]
        measured = pair.verdicts[0].noise_from
        if single and measured:
            yield (
                f"{pair.first.name} and {pair.second.name}: {' and '.join(single)} has a single run; how much its runs "
                f"differ is taken from {' and '.join(measured)}."
            )


def facts(pairs: Sequence[Pair], extra: Side | None = None) -> Json:
    """How the comparison was made: sides, runs, excluded patients, method."""
    sides = {side.name: side for pair in pairs for side in (pair.first, pair.second)}
    return {
        "sides": {side.name: [str(run.path) for run in side.runs] for side in sides.values()},
        "noise_from": [str(run.path) for run in extra.runs] if extra else [],
        "skipped": {path: reason for side in sides.values() for path, reason in side.skipped.items()},
        "left_out": {
            f"{pair.first.name} and {pair.second.name}": {name: list(ids) for name, ids in pair.left_out.items()}
            for pair in pairs
            if pair.left_out
        },
        "method": {
            "test": "two-sided t-test of the mean paired difference; runs are the unit that is repeated",
            "correction": "Holm, over all columns and pairs",
            "level": 1 - LEVEL,
            "power": POWER,
        },
        "verdicts": [sentence(pair, verdict) for pair in pairs for verdict in pair.verdicts],
        "notes": list(notes(pairs, extra)),
    }


def facts_path(output: Path) -> Path:
    """The record beside a table."""
    return output.with_name(f"{output.stem}_facts.json")


def read_lines(output: Path) -> list[str]:
    """The verdicts and notes beside a table, in words."""
    found = read_object(facts_path(output))
    return [*found["verdicts"], *found["notes"]]


def check_output(output: Path, inputs: Iterable[Path]) -> None:
    """Check that a comparison would not overwrite a table that it reads.

    Raises:
        ConfigError: It would, or the output is a folder.
    """
    read = {path.resolve() for path in inputs}
    for path in (output, facts_path(output)):
        if path.resolve() in read:
            raise ConfigError(
                f"{path} is one of the compared tables and would be overwritten. Choose another output.",
                code="output-is-input",
                file=path,
            )
        if path.is_dir():
            raise ConfigError(f"{path} is a folder. Choose another output.", code="folder-not-file", file=path)


def write_comparison(output: Path, pairs: Sequence[Pair], extra: Side | None = None) -> None:
    """Write the table, and the record beside it; both or none."""
    with together(output.parent) as files:
        write_rows(rows(pairs), files.write(output))
        write_json(files.write(facts_path(output)), json.loads(json.dumps(facts(pairs, extra))))
