"""The ``mist_*`` commands: each parses its flags and calls a function of ``studies`` or ``tools``.

Dagster and torch are imported after parsing, so that ``--help`` stays fast.
"""

import gc
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from mist_dagster.cli import options
from mist_ops.errors import MistError

if TYPE_CHECKING:
    from mist_dagster.cli.options import Options

Arguments = Sequence[str] | None


def analyze(arguments: Arguments = None) -> int:
    """Analyze a dataset and write config.json, the folds and the foreground boxes."""
    return _run("analyze", analyze.__doc__, options.AnalyzeOptions, "studies", arguments, ["analyze"])


def preprocess(arguments: Arguments = None) -> int:
    """Preprocess the images of an analyzed dataset and save them as NumPy arrays."""
    return _run("preprocess", preprocess.__doc__, options.PreprocessOptions, "studies", arguments, ["preprocess"])


def train(arguments: Arguments = None) -> int:
    """Train the folds, predict their held-out patients and evaluate the predictions."""
    return _run("train", train.__doc__, options.TrainOptions, "studies", arguments, ["train"])


def run_all(arguments: Arguments = None) -> int:
    """Run the whole pipeline, from dataset.json to results.csv: analyze, preprocess, train, predict, evaluate."""
    stages = ["analyze", "preprocess", "train"]
    return _run("run_all", run_all.__doc__, options.RunAllOptions, "studies", arguments, stages)


def finalize(arguments: Arguments = None) -> int:
    """Evaluate the predictions of all trained folds and predict the test set."""
    return _run("finalize", finalize.__doc__, options.FinalizeOptions, "studies", arguments)


def choose_postprocessing(arguments: Arguments = None) -> int:
    """Search for the postprocessing strategy that improves the cross-validation predictions of a study."""
    chosen = options.ChoosePostprocessingOptions
    return _run("choose_postprocessing", choose_postprocessing.__doc__, chosen, "studies", arguments)


def predict(arguments: Arguments = None) -> int:
    """Predict the masks of new patients with the ensemble of all models in a folder."""
    return _run("predict", predict.__doc__, options.PredictOptions, "tools", arguments)


def evaluate(arguments: Arguments = None) -> int:
    """Evaluate predicted masks against ground truth."""
    return _run("evaluate", evaluate.__doc__, options.EvaluateOptions, "tools", arguments)


def rank(arguments: Arguments = None) -> int:
    """Rank models or strategies by their scores on the same patients."""
    return _run("rank", rank.__doc__, options.RankOptions, "tools", arguments)


def postprocess(arguments: Arguments = None) -> int:
    """Postprocess predicted masks and, optionally, evaluate them."""
    if "--describe" in (sys.argv[1:] if arguments is None else arguments):  # no other flag is required then
        from mist_ops.postprocessing.strategy import describe

        print(json.dumps(describe(), indent=2))  # noqa: T201 - output of the command
        return 0
    return _run("postprocess", postprocess.__doc__, options.PostprocessOptions, "tools", arguments)


def ensemble(arguments: Arguments = None) -> int:
    """Combine the predictions of several models or raters for the same patients."""
    return _run("ensemble", ensemble.__doc__, options.EnsembleOptions, "tools", arguments)


def convert_msd(arguments: Arguments = None) -> int:
    """Convert a dataset of the Medical Segmentation Decathlon (MSD)."""
    return _run("convert_msd", convert_msd.__doc__, options.ConvertMsdOptions, "tools", arguments)


def convert_nnunet(arguments: Arguments = None) -> int:
    """Convert a dataset of nnU-Net v2."""
    return _run("convert_nnunet", convert_nnunet.__doc__, options.ConvertNnunetOptions, "tools", arguments)


def convert_csv(arguments: Arguments = None) -> int:
    """Convert a dataset described by CSV tables of paths."""
    return _run("convert_csv", convert_csv.__doc__, options.ConvertCsvOptions, "tools", arguments)


def average_weights(arguments: Arguments = None) -> int:
    """Average the weights of several models of the same architecture."""
    return _run("average_weights", average_weights.__doc__, options.AverageWeightsOptions, "tools", arguments)


def status(arguments: Arguments = None) -> int:
    """Show which arrays, models, predictions and scores of a study are out of date, and why."""
    return _run("status", status.__doc__, options.StatusOptions, "studies", arguments)


def plan(arguments: Arguments = None) -> int:
    """Show what is out of date, like mist_status, and rebuild only that with --apply."""
    return _run("plan", plan.__doc__, options.PlanOptions, "studies", arguments)


def accept(arguments: Arguments = None) -> int:
    """Accept the scores of a study as the baseline for later ones."""
    return _run("accept", accept.__doc__, options.AcceptOptions, "studies", arguments)


def keep(arguments: Arguments = None) -> int:
    """Declare stale artifacts of a study current, with a reason, or undo that."""
    return _run("keep", keep.__doc__, options.KeepOptions, "studies", arguments)


def passport(arguments: Arguments = None) -> int:
    """Check what a model was made from, or say in which ways two models differ."""
    from mist_dagster.cli.passports import run

    return run(arguments, passport.__doc__)


def ui(arguments: Arguments = None) -> int:
    """Serve the web UI, the Dagster daemon and TensorBoard on this machine only, until Ctrl-C."""
    chosen, _ = options.parse("mist_ui", ui.__doc__, options.UiOptions, [], arguments)
    from mist_dagster.instance import tensorboard
    from mist_dagster.instance.home import instance
    from mist_dagster.instance.studies import registered_studies
    from mist_dagster.instance.webserver import serve
    from mist_dagster.runtime.gpu import fit_pool

    try:
        with instance() as opened:  # creates the home's database, if this is the first use
            fit_pool(opened)
        with tensorboard.serving(chosen.tensorboard_port, registered_studies()):
            serve(chosen.port)
    except MistError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run(
    name: str,
    purpose: str | None,
    kind: "type[Options]",
    module: str,
    arguments: Arguments,
    stages: Sequence[str] = (),
) -> int:
    """Run a command; return 0, 1 after an error message, or 130 if it was interrupted.

    Args:
        name: Name of the command, and of its function in ``module``.
        purpose: Description for ``--help``.
        kind: The command's options.
        module: The module of this package with its function.
        arguments: The command line; ``sys.argv`` if None.
        stages: Stages whose settings with a flag the command accepts.
    """
    chosen, settings = options.parse(f"mist_{name}", purpose, kind, stages, arguments)
    with _loading():
        from mist_dagster.definitions import build_definitions
        from mist_dagster.launch import RunCanceledError, RunFailedError, launcher
        from mist_dagster.runtime.progress import TerminalProgress

        work: Any = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    with TerminalProgress() as progress, ExitStack() as stack:
        try:
            with _loading():
                opened = stack.enter_context(launcher(progress, build_definitions))
            work(opened, chosen, settings)
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
