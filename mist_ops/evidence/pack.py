"""Write the evidence pack of some models of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mist_ops.errors import ConfigError
from mist_ops.evidence.bill import bill_of_materials
from mist_ops.evidence.card import model_card
from mist_ops.evidence.container import as_json, packed, sha256
from mist_ops.evidence.dataset import croissant
from mist_ops.evidence.documents import records
from mist_ops.evidence.names import Names
from mist_ops.evidence.sources import Evidence, gather
from mist_ops.files import together
from mist_ops.study import Study

VERIFIER = Path(__file__).with_name("standalone.py")
"""The verifier that each pack holds as ``verify.py``."""


@dataclass(frozen=True)
class Pack:
    """A pack that was written.

    Attributes:
        sha256: SHA-256 of the file.
        size: Its bytes.
        models: Number of models.
        patients: Number of patients whose scans are on record.
        notes: What the pack lacks.
    """

    sha256: str
    size: int
    models: int
    patients: int
    notes: Sequence[str]


def members(evidence: Evidence, names: Names) -> dict[str, bytes]:
    """The members of a pack without its manifest.

    Raises:
        ConfigError: As ``Names.check``.
    """
    found = records(evidence, names)
    found |= {
        "croissant.json": as_json(croissant(evidence, names, found["folds.csv"])),
        "sbom.json": as_json(bill_of_materials(evidence)),
        "model_card.md": model_card(evidence, names).encode(),
    }
    names.check(found)
    return {**found, "verify.py": VERIFIER.read_bytes()}


def write_pack(
    study: Study, weights: Sequence[Path], output: Path, key: bytes | None = None, *, overwrite: bool = True
) -> Pack:
    """Write a pack, and its SHA-256 beside it in the format of sha256sum.

    Args:
        study: Locates records and arrays.
        weights: The models.
        output: The pack.
        key: Secret of the pseudonyms; None to keep the ids of patients.
        overwrite: Whether to replace another pack.

    Raises:
        MistError: As ``gather``, or ids are left, or the output exists.
    """
    evidence = gather(study, weights)
    content = packed(members(evidence, Names(evidence.ids, key)))
    if output.exists() and not overwrite and output.read_bytes() != content:
        raise ConfigError(
            f"{output} exists and is another pack or file. Use --overwrite to replace it, or another name.",
            code="output-exists",
            file=output,
        )
    digest = sha256(content)
    with together(output.parent) as files:
        files.write(output).write_bytes(content)
        files.write(hash_path(output)).write_text(f"{digest}  {output.name}\n", encoding="utf-8")
    notes = [f"No scores: {evidence.unscored}."] if evidence.unscored else []
    if not all(passport.packages for passport in evidence.passports.values()):
        notes.append("Some passports record only the packages that compute; the bill of materials lists these.")
    return Pack(digest, len(content), len(evidence.passports), len(evidence.arrays) + len(evidence.tests), notes)


def hash_path(pack: Path) -> Path:
    """The file beside a pack with its SHA-256."""
    return pack.with_name(f"{pack.name}.sha256")
