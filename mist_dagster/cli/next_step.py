"""What a user does next after each command, as a command line with the same folders."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mist_dagster.cli.options import Options

Command = Callable[[Any], str | None]


def after(command: str, options: Options) -> str | None:
    """Return the command line that follows a command, or None if there is none that most users need."""
    follows = _FOLLOWS.get(command)
    return follows(options) if follows else None


def _line(command: str, **flags: Path | None) -> str:
    parts = [part for name, path in flags.items() if path for part in (f"--{name.replace('_', '-')}", str(path))]
    return shlex.join([command, *parts])


def _with_study(command: str, *names: str) -> Command:
    """The command with the folders of a study that were given and are not the default."""

    def line(options: Options) -> str | None:
        if getattr(options, "submit", False):
            return None  # it is not done
        fields = type(options).model_fields
        given = {name: getattr(options, name) for name in names if name in fields}
        return _line(command, **{name: path for name, path in given.items() if path != fields[name].default})

    return line


def _analyze_converted(options: Any) -> str:
    return _line("mist_analyze", data=options.output / "dataset.json")


def _predict(options: Any) -> str | None:
    if options.submit or options.discard:
        return None
    models = {"models_dir": options.results / "models", "config": options.results / "config.json"}
    return _line("mist_predict", **models, paths_csv=Path("new.csv"), output=Path("masks"))


_FOLLOWS: Mapping[str, Command] = {
    "phantoms": _analyze_converted,
    "convert_msd": _analyze_converted,
    "convert_nnunet": _analyze_converted,
    "convert_csv": _analyze_converted,
    "analyze": _with_study("mist_preprocess", "results"),
    "preprocess": _with_study("mist_train", "results", "numpy"),
    "train": _predict,
    "run_all": _predict,
    "finalize": _with_study("mist_status", "results"),
}
