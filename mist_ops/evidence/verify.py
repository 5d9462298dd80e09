"""Verify a pack: its bytes, the links in it, its scores, its history, and the scans on this machine."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mist_ops.dataset import read_description
from mist_ops.errors import ConfigError, few
from mist_ops.evidence.container import sha256, unpacked
from mist_ops.evidence.names import Names
from mist_ops.evidence.pack import hash_path
from mist_ops.evidence.scores import close, mean_of
from mist_ops.files import file_hash
from mist_ops.records.arrays import ARRAYS
from mist_ops.records.history import START

_INVALID = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Scan:
    """A scan or mask on record: its patient, what it is, and its SHA-256."""

    patient: str
    channel: str
    sha256: str


@dataclass(frozen=True)
class Verified:
    """A pack whose bytes are intact.

    Attributes:
        sha256: SHA-256 of the file.
        members: Sizes of its members in bytes.
        models: Number of models.
        patients: Number of patients, test patients included.
        scans: Every scan on record.
        events: Number of lines of the history.
        pseudonyms: Whether patients have pseudonyms.
        problems: What does not belong together in it.
    """

    sha256: str
    members: Mapping[str, int]
    models: int
    patients: int
    scans: Sequence[Scan]
    events: int
    pseudonyms: bool
    problems: Sequence[str]


def verify_pack(pack: Path) -> Verified:
    """Compare every byte of a pack with its hashes, and follow the links in it.

    Raises:
        ConfigError: It is missing, is not a pack, or a byte of it changed.
    """
    try:
        content = pack.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"{pack} is not a file. Check the path.", code="file-missing", file=pack) from error
    members = unpacked(content, pack)
    digest = sha256(content)
    try:
        links = json.loads(members["provenance.json"])
        problems = [*_beside(pack, digest), *_links(members, links), *_history(members), *_scores(members, links)]
        return Verified(
            sha256=digest,
            members={name: len(member) for name, member in members.items()},
            models=len(links["models"]),
            patients=len(links["patients"]) + len(links["test_patients"]),
            scans=[
                Scan(name, channel, digest)
                for part in ("patients", "test_patients")
                for name, patient in links[part].items()
                for channel, digest in patient["scans"].items()
            ],
            events=members["history.jsonl"].count(b"\n"),
            pseudonyms=bool(links["pseudonyms"]),
            problems=problems,
        )
    except _INVALID as error:
        raise ConfigError(
            f"{pack} is intact, but its members are not those of a pack ({error}). Ask for the pack again.",
            code="pack-invalid",
            file=pack,
        ) from error


def _beside(pack: Path, digest: str) -> Iterator[str]:
    """Compare with the hash beside the pack, if there is one."""
    path = hash_path(pack)
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace").split()[:1] != [digest]:
        yield f"The SHA-256 of the pack is not that in {path.name}."


def _links(members: Mapping[str, bytes], links: Mapping[str, Any]) -> Iterator[str]:
    for fold, model in links["models"].items():
        passport = json.loads(members[f"passports/{fold}.json"])
        if passport["weights"] != model["weights"]:
            yield f"{fold}: its passport is that of other weights."
        content = {**passport["content"]["training"], **passport["content"]["validation"]}
        lost = [name for name, arrays in content.items() if arrays not in _contents(links["patients"].get(name))]
        if lost:
            yield f"{fold}: the arrays of {few(sorted(lost))} do not lead to scans."
    weights = {fold: model["weights"] for fold, model in links["models"].items()}
    for part, made in links["predictions"].items():
        other = [name for name, record in made.items() if not record["models"].items() <= weights.items()]
        if other:
            yield f"Predictions ({part}) of {few(sorted(other))} are those of other models."


def _contents(patient: Mapping[str, Any] | None) -> set[str]:
    """The hashes by which a passport may name the arrays of a patient; none if its scans are not on record."""
    if not patient or not patient["scans"]:
        return set()
    arrays = [bytes.fromhex(patient["arrays"][name]) for name in ARRAYS if name in patient["arrays"]]
    return {patient["content"], *(sha256(b"".join(arrays[:count])) for count in range(1, len(arrays) + 1))}


def _history(members: Mapping[str, bytes]) -> Iterator[str]:
    previous = START
    for number, line in enumerate(members["history.jsonl"].splitlines(), start=1):
        if json.loads(line)["previous"] != previous:
            yield f"history.jsonl: line {number} does not follow the line before it."
        previous = sha256(line)


def _scores(members: Mapping[str, bytes], links: Mapping[str, Any]) -> Iterator[str]:
    """Compare means with the scores that they are means of, and the scored files with the predictions and masks."""
    if "scores.json" not in members:
        return
    described = json.loads(members["scores.json"])
    table = csv.DictReader(io.StringIO(members["scores.csv"].decode()))
    rows = {row["id"]: row for row in table}
    wrong = [name for name, facts in described["columns"].items() if not close(mean_of(rows, name), facts["mean"])]
    if wrong:
        yield f"scores.json: {few(wrong)} {'is' if len(wrong) == 1 else 'are'} not the mean of scores.csv."
    made = links["predictions"]["held_out"]
    for name, digest in described["inputs"]["predictions"].items():
        if digest is not None and made.get(name, {}).get("mask") != digest:
            yield f"scores.csv: {name} is not that of its prediction."


def compare_scans(verified: Verified, data: Path, key: bytes | None = None) -> list[str]:
    """List the scans that are not in a dataset, byte for byte, under any name.

    Args:
        verified: The pack.
        data: A folder, or a dataset.json.
        key: Secret of the pseudonyms, by which a scan that differs is known from one that is missing.

    Raises:
        DatasetError: The dataset.json cannot be used.
        ConfigError: The folder does not exist.
    """
    found = {path: file_hash(path) for path in _files(data)}
    present, expected = set(found.values()), {scan.sha256 for scan in verified.scans}
    folders = {path.parent.name for path, digest in found.items() if digest not in expected}
    changed = set(map(Names(folders, key), folders))
    absent = "differs or is missing" if verified.pseudonyms and key is None else "is missing"
    return [
        f"{scan.patient}: {scan.channel} {'differs' if scan.patient in changed else absent}."
        for scan in verified.scans
        if scan.sha256 not in present
    ]


def _files(data: Path) -> Iterable[Path]:
    if data.is_file():
        description = read_description(data)
        folders = [folder for folder in (description.train_data, description.test_data) if folder]
    else:
        folders = [data]
    missing = next((folder for folder in folders if not folder.is_dir()), None)
    if missing:
        raise ConfigError(
            f"{missing} is not a folder. Give --data the folder of the scans, or a dataset.json.",
            code="folder-missing",
            file=missing,
            field="--data",
        )
    return (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
