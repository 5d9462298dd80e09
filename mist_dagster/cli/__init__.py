"""The ``mist_*`` commands: each parses its flags and calls a function of ``studies`` or ``tools``.

Dagster and torch are imported after parsing, so that ``--help`` stays fast.
"""

import gc
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mist_dagster.cli import next_step, options
from mist_ops.errors import MistError

Arguments = Sequence[str] | None


@dataclass(frozen=True)
class Command:
    """What a command accepts, and the module of this package with its function; None if it starts no run.

    It also accepts the settings with a flag of its ``stages``.
    """

    options: type[options.Options]
    module: str | None = None
    stages: tuple[str, ...] = ()


COMMANDS: Mapping[str, Command] = {
    "analyze": Command(options.AnalyzeOptions, "studies", ("analyze",)),
    "preprocess": Command(options.PreprocessOptions, "studies", ("preprocess",)),
    "train": Command(options.TrainOptions, "studies", ("train",)),
    "run_all": Command(options.RunAllOptions, "studies", ("analyze", "preprocess", "train")),
    "finalize": Command(options.FinalizeOptions, "studies"),
    "choose_postprocessing": Command(options.ChoosePostprocessingOptions, "studies"),
    "guard": Command(options.GuardOptions, "studies"),
    "calibrate": Command(options.CalibrateOptions, "studies"),
    "predict": Command(options.PredictOptions, "tools"),
    "evaluate": Command(options.EvaluateOptions, "tools"),
    "rank": Command(options.RankOptions, "tools"),
    "compare": Command(options.CompareOptions, "tools"),
    "postprocess": Command(options.PostprocessOptions, "tools"),
    "ensemble": Command(options.EnsembleOptions, "tools"),
    "convert_msd": Command(options.ConvertMsdOptions, "tools"),
    "convert_nnunet": Command(options.ConvertNnunetOptions, "tools"),
    "convert_csv": Command(options.ConvertCsvOptions, "tools"),
    "average_weights": Command(options.AverageWeightsOptions, "tools"),
    "status": Command(options.StatusOptions, "studies"),
    "plan": Command(options.PlanOptions, "studies"),
    "accept": Command(options.AcceptOptions, "studies"),
    "keep": Command(options.KeepOptions, "studies"),
    "review": Command(options.ReviewOptions, "studies"),
    "slurm": Command(options.SlurmOptions, "clusters"),
    "phantoms": Command(options.PhantomsOptions),
    "ui": Command(options.UiOptions),
}
"""All commands except ``mist_passport``, ``mist_evidence`` and ``mist_completion``, which have their own parsers."""


def analyze(arguments: Arguments = None) -> int:
    """Analyze a dataset and write config.json, the folds and the foreground boxes."""
    return _run("analyze", arguments)


def preprocess(arguments: Arguments = None) -> int:
    """Preprocess the images of an analyzed dataset and save them as NumPy arrays."""
    return _run("preprocess", arguments)


def train(arguments: Arguments = None) -> int:
    """Train the folds, predict their held-out patients and evaluate the predictions."""
    return _run("train", arguments)


def run_all(arguments: Arguments = None) -> int:
    """Run the whole pipeline, from dataset.json to results.csv: analyze, preprocess, train, predict, evaluate."""
    return _run("run_all", arguments)


def finalize(arguments: Arguments = None) -> int:
    """Evaluate the predictions of all trained folds and predict the test set."""
    return _run("finalize", arguments)


def choose_postprocessing(arguments: Arguments = None) -> int:
    """Search for the postprocessing strategy that improves the cross-validation predictions of a study."""
    return _run("choose_postprocessing", arguments)


def guard(arguments: Arguments = None) -> int:
    """Build the guard of a study, which reports at prediction whether a scan is like those of the training patients."""
    return _run("guard", arguments)


def calibrate(arguments: Arguments = None) -> int:
    """Calibrate the probabilities and volumes of a study's models on its held-out patients."""
    return _run("calibrate", arguments)


def predict(arguments: Arguments = None) -> int:
    """Predict the masks of new patients with the ensemble of all models in a folder."""
    return _run("predict", arguments)


def evaluate(arguments: Arguments = None) -> int:
    """Evaluate predicted masks against ground truth."""
    return _run("evaluate", arguments)


def rank(arguments: Arguments = None) -> int:
    """Rank models or strategies by their scores on the same patients."""
    return _run("rank", arguments)


def compare(arguments: Arguments = None) -> int:
    """Compare methods by the scores of their runs: is B better than A, or is the difference noise?"""
    return _run("compare", arguments)


def postprocess(arguments: Arguments = None) -> int:
    """Postprocess predicted masks and, optionally, evaluate them."""
    if "--describe" in (sys.argv[1:] if arguments is None else arguments):  # no other flag is required then
        from mist_ops.postprocessing.strategy import describe

        print(json.dumps(describe(), indent=2))  # noqa: T201 - output of the command
        return 0
    return _run("postprocess", arguments)


def ensemble(arguments: Arguments = None) -> int:
    """Combine the predictions of several models or raters for the same patients."""
    return _run("ensemble", arguments)


def convert_msd(arguments: Arguments = None) -> int:
    """Convert a dataset of the Medical Segmentation Decathlon (MSD)."""
    return _run("convert_msd", arguments)


def convert_nnunet(arguments: Arguments = None) -> int:
    """Convert a dataset of nnU-Net v2."""
    return _run("convert_nnunet", arguments)


def convert_csv(arguments: Arguments = None) -> int:
    """Convert a dataset described by CSV tables of paths."""
    return _run("convert_csv", arguments)


def average_weights(arguments: Arguments = None) -> int:
    """Average the weights of several models of the same architecture."""
    return _run("average_weights", arguments)


def status(arguments: Arguments = None) -> int:
    """Show which arrays, models, predictions and scores of a study are out of date, and why."""
    return _run("status", arguments)


def plan(arguments: Arguments = None) -> int:
    """Show what is out of date, like mist_status, and rebuild only that with --apply."""
    return _run("plan", arguments)


def accept(arguments: Arguments = None) -> int:
    """Accept the scores of a study as the baseline for later ones."""
    return _run("accept", arguments)


def keep(arguments: Arguments = None) -> int:
    """Declare stale artifacts of a study current, with a reason, or undo that."""
    return _run("keep", arguments)


def review(arguments: Arguments = None) -> int:
    """List the training masks that are probably wrong, the most suspicious first, with reasons."""
    return _run("review", arguments)


def slurm(arguments: Arguments = None) -> int:
    """Write the settings by which submitted runs use Slurm, or print the scripts that they would submit."""
    return _run("slurm", arguments)


def passport(arguments: Arguments = None) -> int:
    """Check what a model was made from, or say in which ways two models differ."""
    from mist_dagster.cli.passports import run

    return run(arguments, passport.__doc__)


def evidence(arguments: Arguments = None) -> int:
    """Pack everything behind a model in one file that anyone can verify, or verify such a pack."""
    from mist_dagster.cli.packs import run

    return run(arguments, evidence.__doc__)


def phantoms(arguments: Arguments = None) -> int:
    """Write a dataset of synthetic patients, to try the other commands with."""
    chosen, _ = parser("phantoms").parsed(arguments)
    from mist_dagster.cli.synthetic import run

    return run(chosen)


def completion(arguments: Arguments = None) -> int:
    """Print a script that completes the flags of all commands in a shell."""
    from mist_dagster.cli.completions import run

    return run(arguments, completion.__doc__)


def ui(arguments: Arguments = None) -> int:
    """Serve the web UI, the Dagster daemon and TensorBoard on this machine only, until Ctrl-C."""
    chosen, _ = parser("ui").parsed(arguments)
    from mist_dagster.instance import tensorboard
    from mist_dagster.instance.home import instance
    from mist_dagster.instance.studies import registered_studies
    from mist_dagster.instance.webserver import serve
    from mist_dagster.runtime.gpu import fit_pool
    from mist_dagster.site.application import application

    try:
        with instance() as opened:  # creates the home's database, if this is the first use
            fit_pool(opened)
        with tensorboard.serving(chosen.tensorboard_port, registered_studies()):
            serve(chosen.port, application())
    except MistError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def parser(name: str) -> options.FlagParser[Any]:
    """Return the parser of a command in ``COMMANDS``."""
    command = COMMANDS[name]
    return options.FlagParser(f"mist_{name}", globals()[name].__doc__, command.options, command.stages)


def _run(name: str, arguments: Arguments) -> int:
    """Run a command; return 0, 1 after an error message, or 130 if it was interrupted."""
    chosen, settings = parser(name).parsed(arguments)
    _warn_of_mist()
    _start_workers(chosen)
    with _loading():
        from mist_dagster.definitions import build_definitions
        from mist_dagster.launch import RunCanceledError, RunFailedError, launcher
        from mist_dagster.runtime.progress import TerminalProgress

        work: Any = getattr(importlib.import_module(f"{__name__}.{COMMANDS[name].module}"), name)
    with TerminalProgress() as progress, ExitStack() as stack:
        try:
            with _loading():
                opened = stack.enter_context(launcher(progress, build_definitions))
            work(opened, chosen, settings)
            line = next_step.after(name, chosen)
            if line:
                progress.note(f"Next: {line}")
        except (KeyboardInterrupt, RunCanceledError):
            progress.problem("Interrupted. Finished work is kept.")
            return 130
        except MistError as error:
            if chosen.debug:
                progress.problem(error.details if isinstance(error, RunFailedError) else repr(error.__cause__ or error))
            progress.problem(f"Error: {error}")
            return 1
        except Exception as error:
            if chosen.debug:
                raise
            progress.problem(f"Error: {_unforeseen(error)}")
            return 1
    return 0


_WORK = {
    "num_workers_analyze": "mist_ops.analysis.fingerprint",
    "num_workers_preprocess": "mist_ops.preprocessing.case",
    "num_workers_evaluate": "mist_ops.evaluation.table",
    "num_workers_review": "mist_ops.review.study",
    "num_workers_postprocess": "mist_ops.postprocessing.case",
    "num_workers_ensemble": "mist_ops.ensembling.case",
    "num_workers_conversion": "mist_ops.conversion.patients",
}
"""The module whose functions the workers of an option call."""


def _start_workers(chosen: options.Options) -> None:
    """Let the server of workers import what they need, while this process imports Dagster."""
    needed = [module for option, module in _WORK.items() if getattr(chosen, option, 1) > 1]
    if needed:
        from mist_ops.workers import prepare

        prepare([__name__, *needed])


def _warn_of_mist() -> None:
    """Warn if MIST is installed in the same environment, whose commands have the same names."""
    with suppress(PackageNotFoundError):
        version("mist-medical")
        message = (
            "Warning: mist-medical is installed in this environment, too, and one package's commands replace those of"
        )
        print(f"{message} the other. Use an environment for each.", file=sys.stderr)  # noqa: T201


def _unforeseen(error: Exception) -> str:
    """Describe an error that no command handles: of the machine, of Dagster's database, or a bug."""
    from mist_ops.errors import explained

    if isinstance(error, OSError):
        return explained(error)
    if type(error).__module__.startswith(("sqlite3", "sqlalchemy")):
        from mist_dagster.instance.home import dagster_home

        return (
            f"The Dagster records in {dagster_home()} cannot be used ({str(error).splitlines()[0]}). The files of your "
            "studies are unaffected. Free disk space, wait for other commands, or move the folder away and restore the "
            "records of each study with mist_status --rebuild. [records-unusable]"
        )
    return f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the traceback. [unexpected]"


@contextmanager
def _loading() -> Iterator[None]:
    """Disable garbage collection during imports, where it takes 0.3 of 1.8 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
