"""Flags of the commands: options that are not settings of a study, and the parser.

Every field of an options model is a flag, and so is every field of ``StudyConfig`` that is marked as one. Nothing heavy
is imported here, so that ``--help`` stays fast.
"""

import argparse
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mist_ops.config import NAMES, StudyConfig
from mist_ops.registry import BLENDINGS, LABEL_ENSEMBLERS, PROBABILITY_ENSEMBLERS, Registry
from mist_ops.schema import Flag, FlaggedField, Section, flag_mistake, flagged_fields

Chosen = TypeVar("Chosen", bound="Options")


@dataclass(frozen=True)
class Group:
    """Marks an option as part of a group of ``--help``."""

    title: str


@dataclass(frozen=True)
class NameIn:
    """Marks an option as the name of an entry of a registry."""

    registry: Registry[Any]


@dataclass(frozen=True)
class Repeatable:
    """Marks an option whose flag may be given several times; of other flags the last one counts."""


@dataclass(frozen=True)
class Positional:
    """Marks an option as arguments without a flag, which ``--help`` shows as these words."""

    shown: str


_FILES, _OPTIONS, _HARDWARE = Group("Input and output"), Group("Options"), Group("Hardware")
_ANALYSIS, _PREPROCESSING = Group("Analysis"), Group("Preprocessing")
_MODEL, _LOSS, _TRAINING, _TRANSFER = map(Group, ("Model", "Loss function", "Training loop", "Transfer learning"))
_GENERAL, _QUEUE = Group("General"), Group("Queue")

_ORDER = (
    *(_FILES, _OPTIONS, _HARDWARE, _ANALYSIS, _PREPROCESSING, _MODEL, _LOSS, _TRAINING, _TRANSFER),
    *(_GENERAL, _QUEUE),
)
"""The order of the groups, which is that of MIST's user guide."""

_GROUPS_OF_SETTINGS = {
    "training.nfolds": _ANALYSIS,
    "preprocessing.": _PREPROCESSING,
    "spatial_config.": _MODEL,
    "model.": _MODEL,
    "training.loss.": _LOSS,
    "training.": _TRAINING,
}
"""The groups of settings by the start of their dotted path; the first match counts."""

_SAVED = (
    "Flags for settings change config.json; all other settings keep their values there. The defaults of settings are "
    "those of a new config.json."
)

Workers = Annotated[PositiveInt, _HARDWARE]
Device = Annotated[str | None, _HARDWARE]
Overwrite = Annotated[bool, _FILES]
Submit = Annotated[bool, _QUEUE]
NoFigures = Annotated[bool, _GENERAL]
NO_FIGURES = "Draw no figures, and remove those of the files that are written again. Scores and masks are the same."


class Options(Section):
    """Flags of every command."""

    debug: Annotated[bool, _GENERAL] = Field(False, description="Show the traceback of an error.")


class StudyOptions(Options):
    """The study that a command works on."""

    results: Path = Field(Path("results"), description="Results folder of the study.")
    study: Annotated[str | None, _FILES] = Field(
        None, description="Name of the study in the UI (default: the task and a short hash of the results folder)."
    )


class NumpyOptions(StudyOptions):
    """A study and its preprocessed arrays."""

    numpy: Path | None = Field(
        None, description="Folder of the preprocessed arrays (default: the recorded one, else numpy)."
    )


class AnalyzeOptions(StudyOptions):
    """Options of mist_analyze."""

    data: Path = Field(description="Path to dataset.json.")
    overwrite: Overwrite = Field(False, description="Replace existing results.")
    num_workers_analyze: Workers = Field(1, description="Worker processes for the analysis.")
    verify: Annotated[bool, _ANALYSIS] = Field(
        False, description="First read every file of every patient; exclude patients with errors."
    )
    update: Annotated[bool, _ANALYSIS] = Field(
        False,
        description="Repeat the analysis: keep the folds, the plan and edits of config.json; add and remove patients.",
    )
    replan: Annotated[bool, _ANALYSIS] = Field(
        False,
        description="With --update, also plan spacing, patch size and normalization again. Edits and folds are kept.",
    )
    data_dump: Annotated[bool, _ANALYSIS] = Field(
        False, description="Describe the dataset in data_dump.json and data_dump.md."
    )


class PreprocessOptions(NumpyOptions):
    """Options of mist_preprocess."""

    overwrite: Overwrite = Field(False, description="Replace existing arrays.")
    num_workers_preprocess: Workers = Field(1, description="Worker processes for preprocessing.")
    submit: Submit = Field(False, description="Submit to the queue of a running mist_ui, and return.")


class TrainOptions(NumpyOptions):
    """Options of mist_train."""

    overwrite: Overwrite = Field(False, description="Replace existing models.")
    num_workers_evaluate: Workers = Field(1, description="Worker processes for the evaluation.")
    no_figures: NoFigures = Field(False, description=NO_FIGURES)
    device: Device = Field(None, description="cpu, cuda or the number of a GPU (default: all GPUs, else the CPU).")
    composite_loss_weighting: Annotated[str | None, _LOSS, NameIn(BLENDINGS)] = Field(
        None, description="Schedule that weights the terms of a composite loss (default: equal weights)."
    )
    folds: Annotated[list[int] | None, _TRAINING] = Field(None, description="Folds to train (default: all).")
    seeds: Annotated[list[NonNegativeInt] | None, _TRAINING] = Field(
        None,
        description="Train once with each seed. Runs with another seed than that of config.json are replicas, in "
        "replicas/seed_N of the results. Trained folds are kept.",
    )
    redraw_validation: Annotated[bool, _TRAINING] = Field(
        False, description="Let new replicas draw other validation patients, too."
    )
    resume: Annotated[bool, _TRAINING] = Field(False, description="Resume from the last checkpoints.")
    discard: Annotated[bool, _TRAINING] = Field(
        False, description="Remove unfinished trainings, keep the models of earlier ones, and do nothing else."
    )
    pretrained_weights: Annotated[Path | None, _TRANSFER] = Field(
        None, description="Weights to initialize the encoder from."
    )
    pretrained_config: Annotated[Path | None, _TRANSFER] = Field(
        None, description="config.json of the pretrained model; required with --pretrained-weights."
    )
    input_channel_strategy: Annotated[Literal["average", "first", "skip"], _TRANSFER] = Field(
        "average",
        description="First layer if the number of input channels differs: average of the pretrained channels, first "
        "channel only, or skip to keep the random initialization.",
    )
    warm_start: Annotated[bool, _TRANSFER] = Field(
        False, description="Start each fold from its present model instead of random weights."
    )
    submit: Submit = Field(False, description="Submit the folds to the queue of a running mist_ui, and return.")
    priority: Annotated[int, _QUEUE] = Field(0, description="Priority in the queue; higher ones start first.")
    max_hours: Annotated[float | None, Field(gt=0.0), _QUEUE] = Field(
        None, description="Terminate a submitted run after this many hours (default: no limit)."
    )


class RunAllOptions(TrainOptions, PreprocessOptions, AnalyzeOptions):
    """Options of mist_run_all: those of its stages."""

    overwrite: Overwrite = Field(False, description="Replace existing results, arrays and models.")
    submit: Submit = Field(
        False,
        description="Submit the folds to the queue of a running mist_ui, and return; with Slurm, everything after the "
        "analysis.",
    )


class FinalizeOptions(StudyOptions):
    """Options of mist_finalize."""

    num_workers_evaluate: Workers = Field(1, description="Worker processes for the evaluation.")
    no_figures: NoFigures = Field(False, description=NO_FIGURES)
    device: Device = Field(None, description="cpu, cuda or the number of a GPU (default: a GPU, else the CPU).")
    submit: Submit = Field(False, description="Submit to the queue of a running mist_ui, and return.")


class ChoosePostprocessingOptions(StudyOptions):
    """Options of mist_choose_postprocessing."""

    num_workers_postprocess: Workers = Field(1, description="Worker processes for postprocessing.")


class GuardOptions(StudyOptions):
    """Options of mist_guard."""

    damages: NonNegativeInt = Field(
        4, description="Damages to plant on each training patient; each takes as long as a prediction."
    )
    device: Device = Field(None, description="cpu, cuda or the number of a GPU (default: a GPU, else the CPU).")


class CalibrateOptions(NumpyOptions):
    """Options of mist_calibrate."""

    tests: bool = Field(False, description="Also save calibrated probabilities and volumes of the test patients.")
    no_figures: NoFigures = Field(False, description=NO_FIGURES)
    device: Device = Field(None, description="cpu, cuda or the number of a GPU (default: a GPU, else the CPU).")


class StatusOptions(NumpyOptions):
    """Options of mist_status."""

    rebuild: bool = Field(False, description="Restore lost Dagster records from the files of the study.")
    json_output: Annotated[bool, Flag("status", "json")] = Field(
        False, description="Write the report to standard output as JSON, for programs."
    )


class AcceptOptions(StudyOptions):
    """Options of mist_accept."""


class KeepOptions(NumpyOptions):
    """Options of mist_keep."""

    reason: str | None = Field(None, description="Why what changed does not matter; required unless --undo is given.")
    change: str | None = Field(
        None, description="Only this change: a part of what mist_status says of it, such as target_spacing."
    )
    stage: (
        Literal[
            "preprocess",
            "train",
            "predict",
            "evaluate",
            "review",
            "choose_postprocessing",
            "guard",
            "calibrate",
            "calibrate_tests",
            "test",
            "label_next",
            "evidence",
        ]
        | None
    ) = Field(None, description="Only what this stage made.")
    only: list[str] | None = Field(None, description="Only these patients, folds (fold_0) or files (results.csv).")
    undo: bool = Field(False, description="Make stale again what was kept.")


class PlanOptions(NumpyOptions):
    """Options of mist_plan."""

    apply: bool = Field(False, description="Rebuild everything that is out of date.")
    warm_start: bool = Field(False, description="With --apply, start stale folds from their present models.")
    submit: Submit = Field(
        False, description="With --apply, submit this to the queue of a running mist_ui, and return."
    )
    what_if: Annotated[list[str], Repeatable()] = Field(
        [],
        description="Report what would be out of date after changes: settings such as training.epochs=200, or "
        "remove=PATIENT. Nothing is changed.",
    )
    num_workers_preprocess: Workers = Field(1, description="Worker processes for preprocessing.")
    num_workers_evaluate: Workers = Field(1, description="Worker processes for the evaluation.")
    no_figures: NoFigures = Field(False, description=NO_FIGURES)
    device: Device = Field(None, description="cpu, cuda or the number of a GPU (default: all GPUs, else the CPU).")


class ReviewOptions(NumpyOptions):
    """Options of mist_review."""

    length: PositiveInt = Field(10, description="Patients to list; review_queue.csv and label_queue.csv have all.")
    tests: bool = Field(
        False,
        description="Also rank the test patients by how much the models of the folds disagree; takes as long as their "
        "prediction.",
    )
    num_workers_review: Workers = Field(1, description="Worker processes that compare masks with predictions.")
    device: Device = Field(None, description="For --tests: cpu, cuda or a GPU number (default: a GPU, else the CPU).")


class SlurmOptions(NumpyOptions):
    """Options of mist_slurm."""

    user: bool = Field(False, description="Write the settings of all your studies instead of those of one.")
    overwrite: Overwrite = Field(False, description="Replace existing settings.")
    dry_run: bool = Field(
        False, description="Print the scripts of all stages that submitted runs would use, and write nothing."
    )


class PredictOptions(Options):
    """Options of mist_predict."""

    models_dir: Path = Field(description="Folder of the models, such as results/models.")
    config: Path = Field(description="Path to config.json.")
    paths_csv: Path = Field(description="Table with the column id and a column per channel.")
    output: Path = Field(description="Folder for the predicted masks.")
    postprocess_strategy: Path | None = Field(None, description="Strategy (JSON) to postprocess the masks with.")
    output_probs: bool = Field(False, description="Also save the class probabilities.")
    strict: bool = Field(
        False, description="Write no mask of a scan that is unlike those of the training patients; requires a guard."
    )
    calibrated: bool = Field(
        False, description="Save calibrated probabilities, and volumes with intervals; needs mist_calibrate."
    )
    device: Device = Field(None, description="cpu, cuda or the number of a GPU (default: a GPU, else the CPU).")


class EvaluateOptions(Options):
    """Options of mist_evaluate."""

    config: Path = Field(description="config.json, or a JSON file with only its evaluation section.")
    paths_csv: Path = Field(description="Table with the columns id, mask and prediction.")
    output_csv: Path = Field(description="Table of scores to write.")
    no_figures: NoFigures = Field(False, description=NO_FIGURES)
    num_workers_evaluate: Workers = Field(1, description="Worker processes for the evaluation.")
    validate_masks: Annotated[bool, Flag("evaluate", "validate")] = Field(
        False, description="Check all pairs of masks before the evaluation."
    )
    absent: Literal["best", "nan"] = Field(
        "best", description="Score of a class that is absent from both masks: the best value, or none."
    )


class RankOptions(Options):
    """Options of mist_rank."""

    results: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more tables of scores.")
    output_csv: Path = Field(description="Table of mean ranks to write.")
    output_detailed_csv: Path | None = Field(None, description="Table of mean ranks per column to write.")
    significance_csv: Path | None = Field(None, description="Table of pairwise p-values to write.")
    no_figures: NoFigures = Field(False, description=NO_FIGURES)
    names: list[str] | None = Field(None, description="A name for each table (default: its file or folder).")
    metric_direction_overrides: Path | None = Field(
        None, description='JSON file that maps columns to the better direction, "higher" or "lower".'
    )
    id_column: str = Field("id", description="Column of the patient ids.")
    missing: Literal["error", "worst", "drop"] = Field(
        "error", description="Missing scores: report an error, rank them worst, or drop the patient."
    )


class CompareOptions(Options):
    """Options of mist_compare."""

    sides: Annotated[list[str], _FILES, Positional("A B")] = Field(
        description="Two or more methods; each is compared with the first. A method is the results folder of a study, "
        "with its replicas, or tables of scores separated by commas, one for each run."
    )
    output_csv: Annotated[Path, _FILES] = Field(Path("comparison.csv"), description="Table of differences to write.")
    names: list[str] | None = Field(None, description="A name for each method (default: its folder or file).")
    noise: str | None = Field(
        None,
        description="Another method, given in the same way, whose runs also show how much runs differ.",
    )


class PostprocessOptions(Options):
    """Options of mist_postprocess."""

    base_predictions: Path = Field(description="Folder of the predicted masks.")
    output: Path = Field(description="Folder for the postprocessed masks and their scores.")
    postprocess_strategy: Path = Field(description="Strategy: JSON file with the steps.")
    paths_csv: Path | None = Field(None, description="Table with the columns id and mask, to score the result.")
    eval_config: Path | None = Field(
        None, description="config.json, or a JSON file with only its evaluation section; required with --paths-csv."
    )
    num_workers_postprocess: Workers = Field(1, description="Worker processes for postprocessing.")
    num_workers_evaluate: Workers = Field(1, description="Worker processes for the evaluation.")
    describe: bool = Field(False, description="Print all transforms and their parameters as JSON, and exit.")


class EnsembleOptions(Options):
    """Options of mist_ensemble."""

    predictions: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more folders of predictions.")
    output: Path = Field(description="Folder for the combined masks.")
    config: Path | None = Field(None, description="config.json of the models; required for probabilities.")
    input_type: Literal["labels", "probabilities"] = Field("labels", description="Content of the folders.")
    ensemble_backend: Annotated[str, NameIn(LABEL_ENSEMBLERS)] = Field("staple", description="Method for labels.")
    probability_ensemble_backend: Annotated[str, NameIn(PROBABILITY_ENSEMBLERS)] = Field(
        "mean", description="Method for probabilities."
    )
    num_workers_ensemble: Workers = Field(1, description="Worker processes for the ensemble.")


class AverageWeightsOptions(Options):
    """Options of mist_average_weights."""

    weights: Annotated[list[Path], Field(min_length=2)] = Field(description="Two or more weights files.")
    output: Path = Field(description="Weights file to write.")
    overwrite: Overwrite = Field(False, description="Replace an existing file.")


class ConvertMsdOptions(Options):
    """Options of mist_convert_msd."""

    source: Path = Field(description="Folder of the MSD dataset, with its dataset.json.")
    output: Path = Field(description="Folder for the converted dataset.")
    overwrite: Overwrite = Field(False, description="Replace an existing dataset.")
    num_workers_conversion: Workers = Field(1, description="Patients to convert in parallel.")


class ConvertNnunetOptions(Options):
    """Options of mist_convert_nnunet."""

    source: Path = Field(description="Folder of the nnU-Net dataset, with its dataset.json.")
    output: Path = Field(description="Folder for the converted dataset.")
    overwrite: Overwrite = Field(False, description="Replace an existing dataset.")
    num_workers_conversion: Workers = Field(1, description="Patients to convert in parallel.")


class ConvertCsvOptions(Options):
    """Options of mist_convert_csv."""

    train_csv: Path = Field(description="Table of the training patients: id, mask and a column per image.")
    output: Path = Field(description="Folder for the converted dataset.")
    test_csv: Path | None = Field(None, description="Table of the test patients: id and a column per image.")
    overwrite: Overwrite = Field(False, description="Replace an existing dataset.")
    num_workers_conversion: Workers = Field(1, description="Patients to convert in parallel.")


class PhantomsOptions(Options):
    """Options of mist_phantoms."""

    output: Path = Field(description="Folder for the dataset; it must be empty or missing.")
    patients: PositiveInt = Field(10, description="Number of training patients, with masks.")
    tests: NonNegativeInt = Field(0, description="Number of test patients, without masks.")
    seed: NonNegativeInt = Field(0, description="Seed; the same one gives the same patients.")


class UiOptions(Options):
    """Options of mist_ui."""

    port: PositiveInt = Field(3000, description="Port of the UI on 127.0.0.1.")
    tensorboard_port: NonNegativeInt = Field(6006, description="Port of TensorBoard on 127.0.0.1; 0 disables it.")


def _option_flags(options: type[Options]) -> Iterator[FlaggedField]:
    for name, field in options.model_fields.items():
        marker = _marker(field, Flag)
        flag = "--" + ((marker and marker.name) or name).replace("_", "-")
        yield FlaggedField(name, flag, "", field)


Marker = TypeVar("Marker", Flag, Group, NameIn, Positional, Repeatable)


def _marker(field: FieldInfo, kind: type[Marker]) -> Marker | None:
    return next((marker for marker in field.metadata if isinstance(marker, kind)), None)


class CommandParser(argparse.ArgumentParser):
    """A parser whose flags cannot be abbreviated and whose errors are one line."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        if message.startswith("argument "):  # as argparse puts it
            message = message.removeprefix("argument ").replace("argument", "value")
        end = "" if message.endswith("?") else "."
        self.exit(2, f"{self.prog}: {message}{end} See {self.prog} --help.\n")


class FlagParser(CommandParser, Generic[Chosen]):
    """A parser with a flag for each setting and option; names are checked later, by their registry.

    Args:
        command: Name of the command.
        purpose: Description for ``--help``.
        options: The command's options; each field is a flag.
        stages: Stages whose settings with a flag the command accepts.
    """

    def __init__(self, command: str, purpose: str | None, options: type[Chosen], stages: Sequence[str] = ()) -> None:
        settings = [flagged for flagged in flagged_fields(StudyConfig) if flagged.command in stages]
        own = list(_option_flags(options))
        self._options, self._settings, self._own = options, settings, own
        self._flagged = [*settings, *own]
        self._required = [flagged for flagged in own if flagged.field.is_required()]
        self._named: dict[argparse.Action, Registry[Any]] = {}
        needed = "".join(f" {_usage(flagged)}" for flagged in self._required)
        super().__init__(
            prog=command,
            usage=f"%(prog)s{needed} [flags]",
            description=purpose,
            epilog=_SAVED if settings else None,
            formatter_class=_HelpFormatter,
            argument_default=argparse.SUPPRESS,
            add_help=False,
        )
        members: dict[Group, list[FlaggedField]] = {group: [] for group in _ORDER}
        for flagged in sorted(self._flagged, key=lambda flagged: flagged not in self._required):
            members[_group(flagged)].append(flagged)
        for group, flags in members.items():
            section = self.add_argument_group(group.title)  # not shown if it is empty
            for flagged in flags:
                self._add(section, flagged)
            if group == _GENERAL:
                section.add_argument("-h", "--help", action="help", help="Show this help and exit.")

    def _add(self, section: "argparse._ArgumentGroup", flagged: FlaggedField) -> None:
        positional = _marker(flagged.field, Positional)
        if positional:
            section.add_argument(flagged.path, nargs="+", metavar=positional.shown, help=flagged.field.description)
            return
        names = [flagged.flag]
        if flagged.field.annotation is bool and "." in flagged.path:  # may be on in config.json
            names.append(_opposite(flagged.flag))
        action = section.add_argument(*names, dest=flagged.path, help=self._help(flagged), **_shape(flagged))
        named = _marker(flagged.field, NameIn)
        registry = named.registry if named else NAMES.get(flagged.path)
        if registry is not None:  # its length would import torch
            self._named[action] = registry

    def _help(self, flagged: FlaggedField) -> str:
        field, kind = flagged.field, _plain(flagged.field.annotation)
        if flagged in self._required:
            shown = " (required)"
        elif field.default in (PydanticUndefined, None) or kind is bool:
            shown = ""
        else:
            shown = f" (default: {field.default:g})" if kind is float else f" (default: {field.default})"
        return f"{str(field.description).removesuffix('.')}{shown}.".replace("%", "%%")

    def format_help(self) -> str:
        """Format the help, with the names in registries as choices."""
        for action, registry in self._named.items():  # takes 30 ms, so not for every command
            action.metavar = _choices(registry.builtin_names())
        return super().format_help()

    def name_choices(self) -> None:
        """Add the names in registries as choices, for completion; otherwise their registry checks them."""
        for action, registry in self._named.items():
            action.choices = registry.builtin_names()

    def parsed(self, arguments: Sequence[str] | None = None) -> tuple[Chosen, dict[str, Any]]:
        """Parse a command line, by default ``sys.argv``.

        Returns:
            The options, and the settings that were given, by their dotted path in config.json.

        Exits with status 2 and a one-line message if a flag is unknown or missing or its value is invalid.
        """
        values = self._values(arguments)
        own = {flagged.path: values[flagged.path] for flagged in self._own if flagged.path in values}
        settings = {flagged.path: values[flagged.path] for flagged in self._settings if flagged.path in values}
        return self._options.model_validate(own), settings

    def _values(self, arguments: Sequence[str] | None) -> dict[str, Any]:
        parsed, unknown = self.parse_known_args(arguments)
        if unknown:
            self._refuse_unknown(unknown[0])
        given = vars(parsed)
        for flagged in self._required:
            if flagged.path not in given:
                self.error(f"{flagged.flag} is required")
        return {
            flagged.path: self._checked(flagged, given[flagged.path])
            for flagged in self._flagged
            if flagged.path in given
        }

    def _checked(self, flagged: FlaggedField, text: Any) -> Any:
        declared: Any = Annotated[flagged.field.annotation, flagged.field]
        try:
            return TypeAdapter(declared).validate_python(text)
        except ValidationError as error:
            self.error(flag_mistake(flagged.flag, error))

    def _refuse_unknown(self, argument: str) -> NoReturn:
        if not argument.startswith("-"):
            self.error(f"unexpected argument {argument}")
        flag = argument.partition("=")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        self.error(f"unknown flag {flag}" + (f". Did you mean {near[0]}?" if near else ""))


class _Switch(argparse.Action):
    """A flag without a value. A word for yes or no may follow, as in MIST's ``--overwrite true``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the word, or ``true`` for the flag and ``false`` for its opposite."""
        opposite = option_string in self.option_strings[1:]
        if opposite and values is not None:
            parser.error(f"{option_string}: takes no value (got {values})")
        setattr(namespace, self.dest, "false" if opposite else "true" if values is None else values)


class _HelpFormatter(argparse.HelpFormatter):
    """One line per flag, wrapped between the choices of a long list."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = f"{', '.join(action.option_strings)} {action.metavar or ''}".rstrip()
        broken = shown.replace(",", ", ") if len(shown) > self._width - self._current_indent else shown
        lines = textwrap.wrap(broken, self._width - self._current_indent, break_on_hyphens=False)
        return f"\n{' ' * (self._current_indent + 4)}".join(lines).replace(", ", ",") if len(lines) > 1 else shown


def _group(flagged: FlaggedField) -> Group:
    marked = _marker(flagged.field, Group)
    if marked:
        return marked
    if "." in flagged.path:
        return next(group for start, group in _GROUPS_OF_SETTINGS.items() if flagged.path.startswith(start))
    return _FILES if _plain(flagged.field.annotation) in (Path, list[Path]) else _OPTIONS


def _usage(flagged: FlaggedField) -> str:
    positional = _marker(flagged.field, Positional)
    return f"{positional.shown} [...]" if positional else f"{flagged.flag} {_shape(flagged)['metavar']}"


def _opposite(flag: str) -> str:
    return f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else f"--no-{flag.removeprefix('--')}"


def _shape(flagged: FlaggedField) -> dict[str, Any]:
    """How argparse reads the values of a flag, and how it shows them."""
    kind = _plain(flagged.field.annotation)
    if kind is bool:
        return {"action": _Switch, "nargs": "?", "metavar": None}
    if get_origin(kind) is tuple:
        return {"nargs": len(get_args(kind)), "metavar": "X Y Z"}
    if get_origin(kind) is list:
        metavar = _METAVARS[_plain(get_args(kind)[0])]
        action = {"action": "extend"} if _marker(flagged.field, Repeatable) else {}
        return {"nargs": "+", "metavar": f"{metavar} [{metavar} ...]", **action}
    return {"metavar": _choices(get_args(kind)) if get_origin(kind) is Literal else _METAVARS[kind]}


_METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}


def _choices(names: Sequence[str]) -> str:
    return f"{{{','.join(names)}}}"


def _plain(annotation: Any) -> Any:
    """The type behind an optional one, without its constraints."""
    choices = [choice for choice in get_args(annotation) if choice is not type(None)]
    found = choices[0] if type(None) in get_args(annotation) else annotation
    return get_args(found)[0] if get_origin(found) is Annotated else found
