"""The flags of the commands: options that are not settings of a study, and how flags are read.

Every field of an options model is a flag; so is every field of ``StudyConfig`` that is marked as one. Nothing heavy is
imported here, so that ``--help`` answers at once.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from mist_ops.config import StudyConfig
from mist_ops.schema import Flag, FlaggedField, Section, flagged_fields

Chosen = TypeVar("Chosen", bound="Options")


class Options(Section):
    """What every command understands. Fields of options are flags, all of them."""

    debug: bool = Field(False, description="Show where an error came from.")


class StudyOptions(Options):
    """Which study a command is about."""

    results: Path = Field(Path("results"), description="Folder of the study's results.")
    study: str | None = Field(None, description="Name of the study in Dagster; its task and a short hash if left out.")
    overwrite: bool = Field(False, description="Replace what is there.")


class NumpyOptions(StudyOptions):
    """Where the arrays are."""

    numpy: Path | None = Field(None, description="Folder of the preprocessed arrays (default: numpy).")


class AnalyzeOptions(StudyOptions):
    """Flags of mist_analyze that are no settings."""

    data: Path = Field(description="Path of dataset.json.")
    num_workers_analyze: PositiveInt = Field(1, description="Processes that read cases.")
    verify: bool = Field(False, description="Check every case, and leave out those that fail.")


class PreprocessOptions(NumpyOptions):
    """Flags of mist_preprocess that are no settings."""

    num_workers_preprocess: PositiveInt = Field(1, description="Processes that preprocess cases.")


class TrainOptions(NumpyOptions):
    """Flags of mist_train that are no settings."""

    folds: list[int] | None = Field(None, description="Folds to train; all if left out.")
    resume: bool = Field(False, description="Go on from the last checkpoints.")
    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    device: str | None = Field(None, description="cpu, cuda or a number; all GPUs if there are any.")
    composite_loss_weighting: str | None = Field(
        None, description="How the weight of a composite loss changes over the epochs: constant, linear or cosine."
    )
    pretrained_weights: Path | None = Field(None, description="Weights whose encoder training starts from.")
    pretrained_config: Path | None = Field(None, description="config.json that those weights were trained with.")
    input_channel_strategy: Literal["average", "first", "skip"] = Field(
        "average", description="How pretrained weights meet another number of input channels."
    )


class RunAllOptions(AnalyzeOptions, PreprocessOptions, TrainOptions):
    """Flags of mist_run_all that are no settings: those of the stages together."""


class PredictOptions(Options):
    """Flags of mist_predict."""

    models_dir: Path = Field(description="Folder of the models, results/models.")
    config: Path = Field(description="Path of config.json.")
    paths_csv: Path = Field(description="Table with the column id and a column per channel.")
    output: Path = Field(description="Folder of the predicted masks.")
    device: str | None = Field(None, description="cpu, cuda or a number (default: a GPU if there is one).")


class EvaluateOptions(Options):
    """Flags of mist_evaluate."""

    config: Path = Field(description="config.json, or a table of classes and metrics alone.")
    paths_csv: Path = Field(description="Table with the columns id, mask and prediction.")
    output_csv: Path = Field(description="Table of scores to write.")
    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    validate_masks: Annotated[bool, Flag("evaluate", "validate")] = Field(
        False, description="Check every pair before it is scored."
    )


class AverageWeightsOptions(Options):
    """Flags of mist_average_weights."""

    weights: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more files of weights.")
    output: Path = Field(description="File of the averaged weights.")
    overwrite: bool = Field(False, description="Replace what is there.")


class ConvertMsdOptions(Options):
    """Flags of mist_convert_msd."""

    source: Path = Field(description="Folder of the MSD dataset, with its dataset.json.")
    output: Path = Field(description="Folder of the converted dataset.")
    num_workers_conversion: PositiveInt = Field(1, description="Files that are copied at once.")


class UiOptions(Options):
    """Flags of mist_ui."""

    port: PositiveInt = Field(3000, description="Port on this machine, and reachable from it alone.")


NOT_YET: Mapping[str, Sequence[str]] = {
    "analyze": ("--data-dump",),
    "predict": ("--postprocess-strategy", "--output-probs"),
}
"""Flags of the reference whose features this version does not have yet."""


def parse(
    command: str,
    purpose: str | None,
    options: type[Chosen],
    stages: Sequence[str],
    arguments: Sequence[str] | None = None,
) -> tuple[Chosen, dict[str, Any]]:
    """Read a command line.

    Args:
        command: Name of the command.
        purpose: One sentence for ``--help``.
        options: The command's options; each field is a flag.
        stages: Stages whose flagged settings the command takes.
        arguments: The command line; that of this process if None.

    Returns:
        The options, and the settings that were given, by their dotted path in config.json.

    Exits with status 2 and one sentence for a flag that is unknown, missing or has a bad value.
    """
    parser = _Parser(prog=command, description=purpose, argument_default=argparse.SUPPRESS)
    settings = [flagged for flagged in flagged_fields(StudyConfig) if flagged.command in stages]
    own = list(_option_flags(options))
    for flagged in [*own, *settings]:
        _add(parser, flagged)
    for stage in dict.fromkeys([*stages, command.removeprefix("mist_")]):
        for flag in NOT_YET.get(stage, ()):
            parser.add_argument(flag, nargs="*", action=_NotYet, help="Not in this version yet.")
    given = vars(parser.parse_args(arguments))
    values = {
        flagged.path: _value(parser, flagged, given[flagged.path])
        for flagged in [*own, *settings]
        if flagged.path in given
    }
    chosen = options.model_validate({flagged.path: values[flagged.path] for flagged in own if flagged.path in values})
    return chosen, {flagged.path: values[flagged.path] for flagged in settings if flagged.path in values}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


class _NotYet(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(f"{self.option_strings[0]} is not in this version yet. Leave it out.")


def _option_flags(options: type[Options]) -> Iterator[FlaggedField]:
    for name, field in options.model_fields.items():
        marked = next((marker for marker in field.metadata if isinstance(marker, Flag)), None)
        flag = "--" + ((marked and marked.name) or name).replace("_", "-")
        yield FlaggedField(name, flag, "", field)


def _add(parser: argparse.ArgumentParser, flagged: FlaggedField) -> None:
    field, kind = flagged.field, _plain(flagged.field.annotation)
    shape: dict[str, Any] = {"metavar": _metavar(kind)}
    if kind is bool:
        shape |= {"nargs": "?", "const": "true"}
    elif get_origin(kind) is tuple:
        shape |= {"nargs": len(get_args(kind)), "metavar": ("X", "Y", "Z")}
    elif get_origin(kind) is list:
        shape |= {"nargs": "+"}
    shown = "" if field.default in (PydanticUndefined, None) or kind is bool else f" (default: {field.default})"
    help_text = f"{field.description}{shown}".replace("%", "%%")
    parser.add_argument(flagged.flag, dest=flagged.path, required=_is_required(flagged), help=help_text, **shape)


def _is_required(flagged: FlaggedField) -> bool:
    return "." not in flagged.path and flagged.field.is_required()


def _plain(annotation: Any) -> Any:
    """The type behind an optional one."""
    choices = [choice for choice in get_args(annotation) if choice is not type(None)]
    return choices[0] if type(None) in get_args(annotation) else annotation


def _metavar(kind: Any) -> str:
    names = {bool: "BOOL", int: "N", float: "X", Path: "PATH", list[Path]: "PATH", str: "NAME"}
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else names.get(kind, "N")


def _value(parser: argparse.ArgumentParser, flagged: FlaggedField, text: Any) -> Any:
    declared: Any = Annotated[flagged.field.annotation, flagged.field]
    try:
        return TypeAdapter(declared).validate_python(text)
    except ValidationError as error:
        parser.error(f"{flagged.flag}: {error.errors()[0]['msg']} (found {text!r}). See {parser.prog} --help.")
