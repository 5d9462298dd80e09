"""How many changed bytes of an evidence pack both verifiers find, and how long they take.

python bench/evidence.py pack.zip --changes 1000
python bench/evidence.py --patients 5000        # a pack of made-up records of this size

The last rows are for somebody who computes the hash at the end of the pack again after the change.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mist_ops.config import STEP_VERSIONS
from mist_ops.evidence import standalone
from mist_ops.evidence.container import as_json, packed, sha256
from mist_ops.evidence.pack import VERIFIER
from mist_ops.evidence.verify import verify_pack
from mist_ops.records.arrays import ARRAYS

_FOLDS = 5
_DIGITS = 64


def main() -> None:
    """Change bytes, verify, and print how many changes were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, nargs="?")
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--patients", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = made_up(options.patients) if options.pack is None else options.pack.read_bytes()
        copy = Path(folder) / "pack.zip"
        copy.write_bytes(content)
        table = Table("", "mist_evidence verify", "verify.py", title=f"{len(content):,} bytes")
        table.add_row("seconds", *(f"{seconds:.2f}" for seconds in timed(copy)))
        for name, seal in (("changes found", False), ("with the hash at the end computed again", True)):
            found = [0, 0]
            for changed in changes(content, options.changes, options.seed):
                copy.write_bytes(sealed(changed) if seal else changed)
                found = [
                    count + failed(verify, copy) for count, verify in zip(found, (of_mist, of_python), strict=True)
                ]
            table.add_row(name, *(f"{count} of {options.changes}" for count in found))
        Console().print(table)


def timed(pack: Path) -> Iterator[float]:
    """Wall time of both verifiers as commands; the pack must pass both."""
    code = "import sys; from mist_dagster import cli; sys.exit(cli.evidence(sys.argv[1:]))"
    for command in ([sys.executable, "-c", code, "verify"], [sys.executable, "-I", "-S", str(VERIFIER)]):
        start = time.perf_counter()
        subprocess.run([*command, str(pack)], check=True, capture_output=True)
        yield time.perf_counter() - start


def changes(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies of a pack, each with another byte at a random place."""
    drawn = random.Random(seed)  # noqa: S311 - no secret depends on it
    for _ in range(count):
        changed = bytearray(content)
        changed[drawn.randrange(len(content))] ^= drawn.randrange(1, 256)
        yield bytes(changed)


def sealed(content: bytes) -> bytes:
    """A pack with the hash of its present bytes at its end."""
    return content[:-_DIGITS] + sha256(content[:-_DIGITS]).encode()


def of_mist(pack: Path) -> bool:
    """Whether this program finds a pack intact."""
    return not verify_pack(pack).problems


def of_python(pack: Path) -> bool:
    """Whether the verifier in the pack does."""
    return not list(standalone.problems(pack))


def failed(verify: Callable[[Path], bool], pack: Path) -> bool:
    """Whether a verifier finds that something is wrong, also by an error."""
    try:
        return not verify(pack)
    except Exception:  # the verifier in the pack ends with the error of a library
        return True


def made_up(patients: int) -> bytes:
    """A pack with the links of many patients in five folds, and none of the other records."""
    ids = [f"patient_{number:06}" for number in range(patients)]
    arrays = {case_id: {name: sha256(f"{case_id} {name}".encode()) for name in ARRAYS} for case_id in ids}
    content = {
        case_id: sha256(b"".join(bytes.fromhex(digest) for digest in found.values()))
        for case_id, found in arrays.items()
    }
    links = {
        "pseudonyms": False,
        "models": {f"fold_{fold}": {"weights": sha256(b"w"), "passport": sha256(b"p")} for fold in range(_FOLDS)},
        "patients": {
            case_id: {
                "scans": {name: sha256(f"{case_id} {name} scan".encode()) for name in ("t1", "t2", "flair", "mask")},
                "arrays": found,
                "content": content[case_id],
                "settings": "s",
                "version": STEP_VERSIONS["preprocessing"],
            }
            for case_id, found in arrays.items()
        },
        "test_patients": {},
        "predictions": {"held_out": {}, "test": {}},
        "settings": {},
    }
    members = {"provenance.json": as_json(links), "history.jsonl": b"", "verify.py": VERIFIER.read_bytes()}
    for fold in range(_FOLDS):
        training = {case_id: digest for number, (case_id, digest) in enumerate(content.items()) if number % 5 != fold}
        passport = {"weights": sha256(b"w"), "content": {"training": training, "validation": {}}}
        members[f"passports/fold_{fold}.json"] = as_json(passport)
    return packed(members)


if __name__ == "__main__":
    main()
