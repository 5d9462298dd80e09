"""The epochs of a training as they come: a file beside its curves with one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mist_ops.files import write_text
from mist_ops.records.passport import Epoch

_EPOCH = TypeAdapter(Epoch)


def write_epochs(path: Path, epochs: Iterable[Epoch]) -> None:
    """Write all epochs so far, as when a training starts or is resumed."""
    write_text(path, "".join(map(_line, epochs)))


def append_epoch(path: Path, epoch: Epoch) -> None:
    """Append an epoch."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(_line(epoch))


def _line(epoch: Epoch) -> str:
    return f"{json.dumps(asdict(epoch))}\n"


def read_epochs(path: Path) -> Sequence[Epoch]:
    """Read the epochs up to the first line that is not one, which may be half-written; none if the file is missing."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        try:
            found.append(_EPOCH.validate_json(line))
        except ValidationError:
            break
    return tuple(found)
