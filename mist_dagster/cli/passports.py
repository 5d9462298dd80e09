"""``mist_passport``: reads files and starts no run."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mist_dagster.cli.options import CommandParser
from mist_ops.errors import MistError

if TYPE_CHECKING:
    from mist_ops.study import Study


def parser(purpose: str | None) -> CommandParser:
    """Return the parser of ``mist_passport``."""
    found = CommandParser(prog="mist_passport", description=purpose)
    commands = found.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="compare weights, settings and arrays with the passport")
    verify.add_argument("model", type=Path, help="weights, such as results/models/fold_0.pt")
    verify.add_argument("--numpy", type=Path, help="folder of the arrays (default: the study's)")
    diff = commands.add_parser("diff", help="list how two models differ")
    diff.add_argument("models", type=Path, nargs=2, help="weights of A and of B")
    return found


def run(arguments: Sequence[str] | None, purpose: str | None) -> int:
    """Run ``mist_passport``; return 1 if something changed or cannot be read, else 0."""
    chosen = parser(purpose).parse_args(arguments)
    try:
        messages = _verify(chosen.model, chosen.numpy) if chosen.command == "verify" else _diff(*chosen.models)
    except MistError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201 - output of the command
        return 1
    notes = [*_kept(chosen.model), *_guard(chosen.model)] if chosen.command == "verify" else []
    for message in (*messages, *notes):
        print(message)  # noqa: T201 - output of the command
    if chosen.command == "verify" and not messages:
        print(f"{chosen.model} matches its passport.")  # noqa: T201 - output of the command
    if chosen.command == "diff" and not messages:
        print("No differences.")  # noqa: T201 - output of the command
    return int(chosen.command == "verify" and bool(messages))


def _verify(model: Path, numpy: Path | None) -> list[str]:
    from mist_ops.records.comparison import verify

    weights = model.expanduser().resolve()
    return verify(weights, study_around(weights.parent.parent, numpy))


def study_around(results: Path, numpy: Path | None) -> "Study":
    """The study of a results folder, with the arrays that were named, else those on record, else ``./numpy``."""
    from mist_dagster.instance.studies import registered_studies
    from mist_ops.study import Study

    known = next((study.numpy for study in registered_studies() if study.results == results), Path("numpy"))
    return Study("", numpy=(numpy or known).expanduser().resolve(), results=results)


def _kept(model: Path) -> list[str]:
    from mist_ops.records.passport import read_passport

    return [f"The model is {entry}." for entry in read_passport(model.expanduser()).kept]


def _guard(model: Path) -> list[str]:
    """Whether the guard beside a model belongs to it; nothing without a guard."""
    from mist_ops.records.guard import read_guard
    from mist_ops.records.passport import read_passport
    from mist_ops.study import guard_beside

    path = guard_beside(model.expanduser().parent)
    if not path.is_file():
        return []
    try:
        passport, guard = read_passport(model.expanduser()), read_guard(path)
    except MistError as error:
        return [error.message]
    if guard.models.get(passport.fold) == passport.weights:
        return [f"{path} belongs to the model."]
    return [f"{path} belongs to other weights. Build the guard again with mist_guard."]


def _diff(first: Path, second: Path) -> list[str]:
    from mist_ops.records.comparison import differences
    from mist_ops.records.passport import read_passport

    return differences(read_passport(first.expanduser()), read_passport(second.expanduser()))
