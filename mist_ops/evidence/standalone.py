"""Verify an evidence pack with Python alone: python verify.py PACK [FOLDER OF THE SCANS]. Exits with 1 if it fails."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def problems(pack: Path, folder: Path | None = None) -> Iterator[str]:
    """What does not match: bytes of the pack, links from models to scans, lines of the history, files in a folder."""
    content = pack.read_bytes()
    if sha256(content[:-64]).encode() != content[-64:]:
        yield f"{pack}: its bytes do not match the hash at its end."
        return
    with zipfile.ZipFile(pack) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if json.loads(members.pop("manifest.json"))["members"] != {name: sha256(each) for name, each in members.items()}:
        yield f"{pack}: its members do not match the manifest."
    links = json.loads(members["provenance.json"])
    for fold, model in links["models"].items():
        yield from broken_links(fold, model, json.loads(members[f"passports/{fold}.json"]), links["patients"])
    previous = "0" * 64
    for number, line in enumerate(members["history.jsonl"].splitlines(), start=1):
        if json.loads(line)["previous"] != previous:
            yield f"history.jsonl: line {number} does not follow the line before it."
        previous = sha256(line)
    present = {sha256(path.read_bytes()) for path in folder.rglob("*") if path.is_file()} if folder else set()
    for patient, link in [*links["patients"].items(), *links["test_patients"].items()] if folder else ():
        lost = [name for name, scan in link["scans"].items() if scan not in present]
        yield from (f"{patient}: {name} differs or is missing." for name in lost)


def broken_links(fold: str, model: Any, passport: Any, patients: Any) -> Iterator[str]:
    """The patients whose arrays, as the passport of a model names them, do not lead to hashes of scans."""
    if passport["weights"] != model["weights"]:
        yield f"{fold}: its passport is that of other weights."
    for patient, content in {**passport["content"]["training"], **passport["content"]["validation"]}.items():
        link = patients.get(patient, {"scans": {}, "arrays": {}, "content": ""})
        arrays = [bytes.fromhex(link["arrays"][name]) for name in ("image", "label", "dtm") if name in link["arrays"]]
        if not link["scans"] or content not in {link["content"], *(sha256(b"".join(arrays[:n])) for n in (1, 2, 3))}:
            yield f"{fold}: the arrays of {patient} do not lead to scans."


if __name__ == "__main__":
    failed = list(problems(*map(Path, sys.argv[1:3])))
    digest = sha256(Path(sys.argv[1]).read_bytes())
    sys.stdout.write("\n".join([*(failed or ["Verified."]), f"SHA-256 of the pack: {digest}", ""]))
    sys.exit(bool(failed))
