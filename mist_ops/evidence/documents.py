"""The records in a pack: passports, links from models to scans, folds, scores, verdicts and history."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mist_ops.evidence.container import as_json, sha256
from mist_ops.evidence.names import Names
from mist_ops.evidence.sources import Evidence
from mist_ops.files import json_hash
from mist_ops.records.history import rechained
from mist_ops.records.passport import Content, Encoder, Passport
from mist_ops.records.prediction import PredictionRecord
from mist_ops.types import Json

OMITTED = "(omitted: free text)"
"""Stands for what people wrote in a pack with pseudonyms."""


def records(evidence: Evidence, names: Names) -> dict[str, bytes]:
    """The members of a pack that repeat records of the study, by their names."""
    return {
        **{f"passports/{fold}.json": _passport(evidence, fold, names) for fold in evidence.passports},
        "config.json": as_json(evidence.config.model_dump(mode="json")),
        "provenance.json": as_json(_provenance(evidence, names)),
        "folds.csv": table(_folds(evidence, names)),
        "reviews.csv": table(_verdicts(evidence, names)),
        "kept.json": as_json([_kept(entry.model_dump(mode="json"), names) for entry in evidence.kept]),
        "history.jsonl": _history(evidence, names),
        **_scores(evidence, names),
    }


def table(rows: Sequence[Sequence[object]]) -> bytes:
    """A CSV table; the first row names the columns."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()


def _passport(evidence: Evidence, fold: str, names: Names) -> bytes:
    """The passport as it is on disk; with pseudonyms, what this version knows of it."""
    if names.key is None:
        return evidence.files[fold]
    passport = evidence.passports[fold]
    changed = passport.model_copy(
        update={
            **{
                part: tuple(sorted(map(names, getattr(passport, part))))
                for part in ("training", "validation", "held_out")
            },
            "content": _content(passport.content, names),
            "changes": tuple(names.text(text) for text in passport.changes),
            "kept": tuple(OMITTED for _ in passport.kept),
            "pretrained": _pretrained(passport, names),
        }
    )
    return as_json(changed.model_dump(mode="json"))


def _content(content: Content, names: Names) -> Content:
    return Content(training=names.renamed(content.training), validation=names.renamed(content.validation))


def _pretrained(passport: Passport, names: Names) -> Encoder | None:
    encoder = passport.pretrained
    if encoder is None or encoder.passport is None or encoder.passport.content is None:
        return encoder
    source = encoder.passport.model_copy(update={"content": _content(encoder.passport.content, names)})
    return encoder.model_copy(update={"passport": source})


def _provenance(evidence: Evidence, names: Names) -> Json:
    """The links: weights to passports, arrays to scans, predictions to weights."""
    settings: dict[str, Any] = {}

    def reference(values: Any) -> str:
        key = values if isinstance(values, str) else json_hash(values)
        settings[key] = values
        return key

    patients = {
        case_id: {
            "scans": dict(record.inputs),
            "arrays": dict(record.arrays),
            "content": record.content,
            "settings": reference(record.settings),
            "version": record.version,
        }
        for case_id, record in evidence.arrays.items()
    }
    return {
        "pseudonyms": names.key is not None,
        "models": {
            fold: {"weights": passport.weights, "passport": sha256(evidence.files[fold])}
            for fold, passport in evidence.passports.items()
        },
        "beside": dict(evidence.beside),
        "patients": names.renamed(patients),
        "test_patients": names.renamed(
            {case_id: {"scans": dict(record.images)} for case_id, record in evidence.tests.items()}
        ),
        "predictions": {
            part: names.renamed({case_id: _prediction(record, reference) for case_id, record in made.items()})
            for part, made in (("held_out", evidence.held_out), ("test", evidence.tests))
        },
        "settings": settings,
    }


def _prediction(record: PredictionRecord, reference: Any) -> Json:
    return {
        "models": {f"fold_{fold}": weights for fold, weights in record.models.items()},
        "arrays": record.arrays,
        "mask": record.mask,
        "settings": reference(record.settings),
        "version": record.version,
    }


def _folds(evidence: Evidence, names: Names) -> list[list[str]]:
    """A row for each patient, with its part in each fold."""
    parts: dict[str, dict[str, str]] = {}
    for fold, passport in evidence.passports.items():
        for part, ids in (
            ("held out", passport.held_out),
            ("validation", passport.validation),
            ("training", passport.training),
        ):
            for case_id in ids:
                found = parts.setdefault(names(case_id), {})
                found[fold] = f"{part} and {found[fold]}" if fold in found else part
    columns = list(evidence.passports)
    rows = [[case_id, *(found.get(fold, "") for fold in columns)] for case_id, found in sorted(parts.items())]
    return [["id", *columns], *rows]


def _verdicts(evidence: Evidence, names: Names) -> list[list[str]]:
    found = [[names(case_id), review.verdict] for case_id, review in evidence.reviews.items() if review.verdict]
    return [["id", "verdict"], *sorted(found)]


def _kept(facts: Mapping[str, Any], names: Names) -> Json:
    """What was kept, or the facts of an event; what people wrote is omitted if there are pseudonyms."""
    if names.key is None:
        return dict(facts)
    return {name: OMITTED if name == "reason" else names.value(value) for name, value in facts.items()}


def _history(evidence: Evidence, names: Names) -> bytes:
    """The history; with pseudonyms its lines are chained again."""
    events = evidence.history
    if names.key is not None:
        events = list(rechained(each.model_copy(update={"facts": _kept(each.facts, names)}) for each in events))
    return b"".join(event.line + b"\n" for event in events)


def _scores(evidence: Evidence, names: Names) -> dict[str, bytes]:
    scores = evidence.scores
    if scores is None:
        return {}
    columns = list(scores.columns)
    rows = sorted([names(case_id), *(row[column] for column in columns)] for case_id, row in scores.rows.items())
    inputs = scores.inputs.model_dump(mode="json")
    return {
        "scores.csv": table([["id", *columns], *rows]),
        "scores.json": as_json(
            {
                "columns": scores.columns,
                "confidence": scores.confidence,
                "inputs": {
                    **inputs,
                    "masks": names.renamed(inputs["masks"]),
                    "predictions": names.renamed(inputs["predictions"]),
                },
                "accepted": scores.accepted,
            }
        ),
    }
