"""``mist_completion``: scripts that complete the flags of all commands, by shtab."""

import sys
from collections.abc import Sequence

from mist_dagster.cli.options import CommandParser


def run(arguments: Sequence[str] | None, purpose: str | None) -> int:
    """Run ``mist_completion``; return 1 if shtab is missing, else 0."""
    parser = CommandParser(prog="mist_completion", description=purpose)
    parser.add_argument("shell", choices=["bash", "zsh"], help="shell that the script is for")
    shell = parser.parse_args(arguments).shell
    try:
        import shtab
    except ImportError:
        message = "Error: completion needs the package shtab. Install it with: pip install 'mist-dagster[completion]'"
        print(message, file=sys.stderr)  # noqa: T201
        return 1
    from mist_dagster import cli
    from mist_dagster.cli import packs, passports

    flagged = [cli.parser(name) for name in cli.COMMANDS]
    for command in flagged:
        command.name_choices()
    parsers: list[CommandParser] = [
        *flagged,
        passports.parser(cli.passport.__doc__),
        packs.parser(cli.evidence.__doc__),
    ]
    for each in parsers:
        print(shtab.complete(each, shell=shell))  # noqa: T201 - output of the command
    return 0
