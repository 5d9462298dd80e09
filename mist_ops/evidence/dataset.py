"""Description of the dataset in Croissant 1.0, the vocabulary of MLCommons: each scan by its hash, and the folds."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TypeAlias
from urllib.parse import quote

from mist_ops.errors import counted
from mist_ops.evidence.container import sha256
from mist_ops.evidence.names import Names
from mist_ops.evidence.sources import Evidence
from mist_ops.types import Json

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"

Files: TypeAlias = Mapping[str, Mapping[str, str]]
"""Hashes of the scans by patient and channel."""

_CR_NAMES = (
    *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
    *("replace", "separator", "source", "subField", "transform", "equivalentProperty", "samplingRate"),
)

CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _CR_NAMES},
}
"""The terms of the standard."""


def croissant(evidence: Evidence, names: Names, folds: bytes) -> Json:
    """Describe the scans of all patients in a pack.

    A scan is addressed by its content (RFC 6920), as it is not in the pack and its place differs from machine to
    machine. License, creator and date are not on record, so they are absent.

    Args:
        evidence: The records.
        names: Names of the patients.
        folds: The table of folds in the pack.
    """
    info = evidence.config.dataset_info
    patients = len(evidence.arrays)
    classes = [f"{name} ({', '.join(map(str, each.labels))})" for name, each in evidence.config.evaluation.items()]
    described = [
        f"{info.task}: {counted(patients, 'patient')} with masks",
        *([f"{counted(len(evidence.tests), 'test patient')}"] if evidence.tests else []),
        f"channels {', '.join(info.images)}",
        f"labels {', '.join(map(str, info.labels))}",
        f"classes {', '.join(classes)}",
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": info.task,
        "description": f"{'; '.join(described)}.",
        "keywords": [info.modality, "segmentation"],
        "distribution": [_folds_file(folds), *_scans(evidence, names)],
        "recordSet": [_folds_records(list(evidence.passports))],
    }


def _scans(evidence: Evidence, names: Names) -> Iterator[Json]:
    training: Files = {case_id: record.inputs for case_id, record in evidence.arrays.items()}
    tests: Files = {case_id: record.images for case_id, record in evidence.tests.items()}
    for part, scans in (("train", training), ("test", tests)):
        for patient, files in names.renamed(scans).items():
            for channel, digest in files.items():
                yield {
                    "@type": "cr:FileObject",
                    "@id": f"{part}/{quote(patient, safe='')}/{quote(channel, safe='')}",
                    "name": f"{part} {patient} {channel}",
                    "contentUrl": f"ni:///sha-256;{_base64(digest)}",
                    "encodingFormat": "application/octet-stream",
                    "sha256": digest,
                }


def _base64(digest: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).decode("ascii").rstrip("=")


def _folds_file(folds: bytes) -> Json:
    return {
        "@type": "cr:FileObject",
        "@id": "folds.csv",
        "name": "folds.csv",
        "description": "What each patient was used for in each fold.",
        "contentUrl": "folds.csv",
        "encodingFormat": "text/csv",
        "sha256": sha256(folds),
    }


def _folds_records(columns: list[str]) -> Json:
    return {
        "@type": "cr:RecordSet",
        "@id": "folds",
        "name": "folds",
        "key": {"@id": "folds/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"folds/{column}",
                "name": column,
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": "folds.csv"}, "extract": {"column": column}},
            }
            for column in ("id", *columns)
        ],
    }
