"""The flags of the commands: options that are not settings of a study, and how flags are read.

Every field of an options model is a flag; so is every field of ``StudyConfig`` that is marked as one. Nothing heavy is
imported here, so that ``--help`` answers at once.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from mist_ops.config import StudyConfig
from mist_ops.schema import Flag, FlaggedField, Section, flag_mistake, flagged_fields

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
    update: bool = Field(
        False, description="Analyze again, keeping the folds and the edits of config.json; new patients are added."
    )
    data_dump: bool = Field(False, description="Also describe the dataset in data_dump.json and data_dump.md.")


class PreprocessOptions(NumpyOptions):
    """Flags of mist_preprocess that are no settings."""

    num_workers_preprocess: PositiveInt = Field(1, description="Processes that preprocess cases.")


class TrainOptions(NumpyOptions):
    """Flags of mist_train that are no settings."""

    folds: list[int] | None = Field(None, description="Folds to train; all if left out.")
    resume: bool = Field(False, description="Go on from the last checkpoints.")
    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    device: str | None = Field(None, description="cpu, cuda or a number; all GPUs if there are any.")
    submit: bool = Field(False, description="Hand the folds to the queue of a running mist_ui, and return.")
    priority: int = Field(0, description="With --submit: runs with a higher one leave the queue first.")
    max_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="With --submit: a run that takes longer is ended."
    )
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


class FinalizeOptions(StudyOptions):
    """Flags of mist_finalize."""

    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    device: str | None = Field(None, description="cpu, cuda or a number (default: a GPU if there is one).")


class ChoosePostprocessingOptions(StudyOptions):
    """Flags of mist_choose_postprocessing."""

    num_workers_postprocess: PositiveInt = Field(1, description="Processes that try strategies on cases.")


class StatusOptions(NumpyOptions):
    """Flags of mist_status."""

    rebuild: bool = Field(False, description="Record anew in Dagster what the files of the study are.")


class AcceptOptions(StudyOptions):
    """Flags of mist_accept."""


class PlanOptions(NumpyOptions):
    """Flags of mist_plan."""

    apply: bool = Field(False, description="Make what is out of date again.")
    num_workers_preprocess: PositiveInt = Field(1, description="Processes that preprocess cases.")
    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    device: str | None = Field(None, description="cpu, cuda or a number; all GPUs if there are any.")


class PredictOptions(Options):
    """Flags of mist_predict."""

    models_dir: Path = Field(description="Folder of the models, results/models.")
    config: Path = Field(description="Path of config.json.")
    paths_csv: Path = Field(description="Table with the column id and a column per channel.")
    output: Path = Field(description="Folder of the predicted masks.")
    device: str | None = Field(None, description="cpu, cuda or a number (default: a GPU if there is one).")
    postprocess_strategy: Path | None = Field(None, description="Strategy by which the masks are postprocessed.")
    output_probs: bool = Field(False, description="Also write the probabilities of the classes.")


class EvaluateOptions(Options):
    """Flags of mist_evaluate."""

    config: Path = Field(description="config.json, or a table of classes and metrics alone.")
    paths_csv: Path = Field(description="Table with the columns id, mask and prediction.")
    output_csv: Path = Field(description="Table of scores to write.")
    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    validate_masks: Annotated[bool, Flag("evaluate", "validate")] = Field(
        False, description="Check every pair before it is scored."
    )
    absent: Literal["best", "nan"] = Field(
        "best", description="Score of a class that is neither in the mask nor in the prediction."
    )


class RankOptions(Options):
    """Flags of mist_rank."""

    results: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more tables of scores.")
    output_csv: Path = Field(description="Table of mean ranks to write.")
    names: list[str] | None = Field(None, description="A name for each table (default: from its file or folder).")
    output_detailed_csv: Path | None = Field(None, description="Table of the mean rank in each column.")
    significance_csv: Path | None = Field(None, description="Table of pairwise p-values.")
    metric_direction_overrides: Path | None = Field(None, description="JSON: column to higher or lower.")
    id_column: str = Field("id", description="Column of the patient ids.")
    missing: Literal["error", "worst", "drop"] = Field(
        "error", description="A missing score refuses the ranking, ranks last, or leaves its patient out."
    )


class PostprocessOptions(Options):
    """Flags of mist_postprocess."""

    base_predictions: Path = Field(description="Folder of the predicted masks.")
    output: Path = Field(description="Folder of the postprocessed masks, of the strategy and of their scores.")
    postprocess_strategy: Path = Field(description="JSON with the steps.")
    num_workers_postprocess: PositiveInt = Field(1, description="Processes that postprocess cases.")
    num_workers_evaluate: PositiveInt = Field(1, description="Processes that score cases.")
    paths_csv: Path | None = Field(None, description="Table with the columns id and mask, to score the result.")
    eval_config: Path | None = Field(None, description="config.json, or a table of classes and metrics alone.")
    describe: bool = Field(False, description="Print every transform with its parameters as JSON, and nothing else.")


class EnsembleOptions(Options):
    """Flags of mist_ensemble."""

    predictions: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more folders of predictions.")
    output: Path = Field(description="Folder of the combined masks.")
    input_type: Literal["labels", "probabilities"] = Field("labels", description="What the folders hold.")
    config: Path | None = Field(None, description="config.json of the models; needed for probabilities.")
    ensemble_backend: str = Field("staple", description="How labels are combined: staple or majority_vote.")
    probability_ensemble_backend: str = Field("mean", description="How probabilities are combined: mean.")
    num_workers_ensemble: PositiveInt = Field(1, description="Processes that combine cases.")


class AverageWeightsOptions(Options):
    """Flags of mist_average_weights."""

    weights: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more files of weights.")
    output: Path = Field(description="File of the averaged weights.")
    overwrite: bool = Field(False, description="Replace what is there.")


class ConvertMsdOptions(Options):
    """Flags of mist_convert_msd."""

    source: Path = Field(description="Folder of the MSD dataset, with its dataset.json.")
    output: Path = Field(description="Folder of the converted dataset.")
    num_workers_conversion: PositiveInt = Field(1, description="Patients that are converted at once.")
    overwrite: bool = Field(False, description="Replace a dataset that is in the output folder.")


class ConvertCsvOptions(Options):
    """Flags of mist_convert_csv."""

    train_csv: Path = Field(description="Table of the training patients: id, mask, and a column per image.")
    output: Path = Field(description="Folder of the converted dataset.")
    test_csv: Path | None = Field(None, description="Table of the test patients: id, and a column per image.")
    num_workers_conversion: PositiveInt = Field(1, description="Patients that are converted at once.")
    overwrite: bool = Field(False, description="Replace a dataset that is in the output folder.")


class UiOptions(Options):
    """Flags of mist_ui."""

    port: PositiveInt = Field(3000, description="Port on this machine, and reachable from it alone.")
    tensorboard_port: NonNegativeInt = Field(6006, description="The same of TensorBoard; 0 for none.")


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
    names = {bool: "BOOL", int: "N", float: "X", Path: "PATH", list[Path]: "PATH", str: "NAME", list[str]: "NAME"}
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else names.get(kind, "N")


def _value(parser: argparse.ArgumentParser, flagged: FlaggedField, text: Any) -> Any:
    declared: Any = Annotated[flagged.field.annotation, flagged.field]
    try:
        return TypeAdapter(declared).validate_python(text)
    except ValidationError as error:
        parser.error(f"{flag_mistake(flagged.flag, error)} See {parser.prog} --help.")
