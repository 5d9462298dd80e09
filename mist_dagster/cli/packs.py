"""``mist_evidence``: reads the records of a study and writes a pack, or verifies one; starts no run."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mist_dagster.cli.options import CommandParser
from mist_dagster.cli.passports import study_around
from mist_ops.errors import MistError, counted, explained

_KEY = "file with the key of the pseudonyms; a new key is written if it is missing. Keep it apart from the pack"


def parser(purpose: str | None) -> CommandParser:
    """Return the parser of ``mist_evidence MODEL``."""
    found = CommandParser(
        prog="mist_evidence",
        description=purpose,
        epilog="To verify a pack: mist_evidence verify PACK [--data DATA]",
    )
    found.add_argument("model", type=Path, help="weights, such as results/models/fold_0.pt, or a folder of models")
    found.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PACK", help="pack to write, such as pack.zip"
    )
    found.add_argument("--numpy", type=Path, metavar="FOLDER", help="folder of the arrays (default: the study's)")
    found.add_argument("--pseudonymize", type=Path, metavar="KEY", help=_KEY)
    found.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return found


def verifier(purpose: str | None) -> CommandParser:
    """Return the parser of ``mist_evidence verify``."""
    found = CommandParser(prog="mist_evidence verify", description="Verify a pack and, with --data, the scans.")
    found.add_argument("pack", type=Path, help="the pack")
    found.add_argument("--data", type=Path, help="folder of the scans, or dataset.json")
    found.add_argument("--pseudonymize", type=Path, metavar="KEY", help="file with the key of the pseudonyms")
    return found


def run(arguments: Sequence[str] | None, purpose: str | None) -> int:
    """Run ``mist_evidence``; return 1 if there is no evidence or something changed, else 0."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["verify"]:
            lines = _verify(verifier(purpose).parse_args(words[1:]))
        else:
            lines = _write(parser(purpose).parse_args(words))
        failed = False
        for line in lines:
            failed |= line.startswith("Error: ")
            print(line, file=sys.stderr if line.startswith("Error: ") else sys.stdout)
    except (MistError, OSError) as error:
        print(f"Error: {explained(error)}", file=sys.stderr)  # noqa: T201 - output of the command
        return 1
    return int(failed)


def _write(chosen: argparse.Namespace) -> Iterator[str]:
    from mist_ops.evidence.names import read_key
    from mist_ops.evidence.pack import write_pack
    from mist_ops.evidence.sources import models_of

    weights = models_of(chosen.model.expanduser().resolve())
    study = study_around(weights[0].parent.parent, chosen.numpy)
    key = read_key(chosen.pseudonymize.expanduser()) if chosen.pseudonymize else None
    output = chosen.output.expanduser()
    pack = write_pack(study, weights, output, key, overwrite=chosen.overwrite)
    yield from (f"Note: {note}" for note in pack.notes)
    models, patients = counted(pack.models, "model"), counted(pack.patients, "patient")
    yield f"Evidence: {output} ({models}, {patients}, {pack.size / 1e3:,.0f} kB)"
    yield f"SHA-256: {pack.sha256}"


def _verify(chosen: argparse.Namespace) -> Iterator[str]:
    from mist_ops.evidence.names import read_key
    from mist_ops.evidence.verify import compare_scans, verify_pack

    pack = chosen.pack.expanduser()
    verified = verify_pack(pack)
    problems = list(verified.problems)
    if chosen.data:
        key = read_key(chosen.pseudonymize.expanduser(), create=False) if chosen.pseudonymize else None
        problems += compare_scans(verified, chosen.data.expanduser(), key)
    yield from (f"Error: {problem}" for problem in problems)
    scans = counted(len(verified.scans), "scan or mask", "scans and masks")
    if not problems:
        parts = [counted(verified.models, "model"), counted(verified.patients, "patient"), scans]
        yield f"{pack} is intact: {', '.join(parts)}, {counted(verified.events, 'event')} in the history."
    if chosen.data and not problems:
        yield f"All {scans} are in {chosen.data}, unchanged."
    yield f"SHA-256: {verified.sha256}"
