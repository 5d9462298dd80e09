"""The commands: their exit status, errors and outputs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mist_dagster import cli
from mist_dagster.instance.home import instance
from mist_dagster.instance.studies import registered_studies
from mist_ops.dataset import read_train_paths
from mist_ops.phantoms import write_phantoms
from mist_ops.study import Study

COMMANDS = (
    "analyze",
    "preprocess",
    "train",
    "run_all",
    "finalize",
    "choose_postprocessing",
    "predict",
    "evaluate",
    "rank",
    "postprocess",
    "ensemble",
    "convert_msd",
    "convert_nnunet",
    "convert_csv",
    "average_weights",
    "passport",
    "evidence",
    "accept",
    "status",
    "plan",
    "review",
    "ui",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_torch_nor_dagster(command: str) -> None:
    code = (
        f"import sys, mist_dagster.cli as cli\n"
        f"try: cli.{command}(['--help'])\n"
        f"except SystemExit as end: assert end.code == 0\n"
        f"assert not {{'torch', 'dagster', 'pandas', 'monai'}} & set(sys.modules), set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"mist_{command}" in done.stdout


def test_commands_import_only_what_they_run(home: Path, tmp_path: Path) -> None:
    data = write_phantoms(tmp_path / "data", patients=2, size=(16, 16, 16))
    study, numpy = ["--results", str(tmp_path / "results")], ["--numpy", str(tmp_path / "numpy")]
    tables = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    for table in tables:
        Path(table).write_text("id,whole_dice\n1,0.5\n2,0.7\n3,0.6\n")
    drawing, learning, serving = {"matplotlib"}, {"torch", "monai"}, {"tensorboard", "grpc", "dagster_webserver"}
    of_a_study = (
        ("analyze", ["--data", str(data), "--nfolds", "2", *study], 0),
        ("preprocess", [*study, *numpy], 0),
        ("status", study, 0),
        ("train", ["--submit", "--model", "nnunet", "--epochs", "3", *study, *numpy], 1),  # no mist_ui runs
    )
    of_tables = (("rank", ["--results", *tables, "--output-csv", str(tmp_path / "ranking.csv")], 0),)
    for commands, unused in ((of_a_study, {*drawing, "PIL"}), (of_tables, drawing)):
        code = (
            f"import sys\n"
            f"from mist_dagster import cli\n"
            f"for name, arguments, status in {commands}:\n"
            f"    assert getattr(cli, name)(arguments) == status, name\n"
            f"    found = {unused | learning | serving} & set(sys.modules)\n"
            f"    assert not found, (name, found)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "flags, parts",
    [
        ("--epochs 0", "--epochs: must be at least 1 (got 0)."),  # pinned
        ("--epoch 3", "unknown flag --epoch. Did you mean --epochs?"),  # pinned
        ("--epochs x", "--epochs: integer x"),
        ("--learning-rate 0", "--learning-rate: greater 0"),
        ("--max-hours -1", "--max-hours: greater 0 -1"),
        ("--overwrite maybe", "--overwrite: true false maybe"),
        ("--no-compute-dtms no", "--no-compute-dtms: no"),
        ("--input-channel-strategy mean", "--input-channel-strategy: average first skip mean"),
        ("--patch-size 32", "--patch-size: 3"),
        ("--epochs", "--epochs: one"),
        ("--folds 0 a", "--folds: integer a"),
        ("5", "5"),
    ],
)
def test_an_invalid_flag_ends_with_status_2_and_one_line(
    flags: str, parts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run_all(["--data", "d.json", *flags.split()])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("mist_run_all: ")
    assert line.endswith(" See mist_run_all --help.\n")
    assert line.count("\n") == 1
    assert all(part in line for part in ([parts] if parts.endswith((".", "?")) else parts.split()))
    assert "Input should" not in line  # pydantic's words


def test_a_missing_flag_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run_all([])
    assert end.value.code == 2
    assert "--data is required" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["verify"], ["verify", "fold_0.pt", "--nump", "arrays"], ["compare"]])
def test_invalid_arguments_of_mist_passport(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.passport(arguments)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_missing_dataset_json_registers_no_study(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.analyze(["--data", "nowhere.json"]) == 1
    assert "nowhere.json" in capfd.readouterr().err
    assert registered_studies() == []


def test_an_analysis_is_not_overwritten_by_default(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    study = copied_study
    before = study.config.read_bytes()
    assert cli.analyze(["--data", str(study.data), "--results", str(study.results)]) == 1
    shown = capfd.readouterr().err
    assert all(part in shown for part in ("[output-exists]", str(study.config), "--update", "--overwrite"))
    assert study.config.read_bytes() == before


def test_models_are_not_overwritten_by_default(copied_study: Study, capfd: pytest.CaptureFixture[str]) -> None:
    study = copied_study
    weights = study.model(0).read_bytes()
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    assert cli.train(where) == 1
    shown = capfd.readouterr().err
    assert all(part in shown for part in ("[output-exists]", "--resume", "--overwrite"))
    assert cli.train([*where, "--resume", "--overwrite"]) == 1
    assert cli.train([*where, "--folds", "7"]) == 1
    assert "[unknown-fold]" in capfd.readouterr().err
    assert study.model(0).read_bytes() == weights


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--model", "nnunte"], "Did you mean 'nnunet'?"),
        (["--loss", "dise"], "Did you mean 'dice'?"),
        (["--patch-size", "33", "32", "32"], "40x32x32"),
        (["--epochs", "3", "--warmup-epochs", "3"], "[warmup-too-long]"),
    ],
)
def test_an_invalid_setting_leaves_config_json_unchanged(
    copied_study: Study, capfd: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    study = copied_study
    before = study.config.read_bytes()
    assert cli.train(["--results", str(study.results), "--numpy", str(study.numpy), "--overwrite", *flags]) == 1
    assert words in capfd.readouterr().err
    assert study.config.read_bytes() == before


def test_one_invalid_patient_fails_the_command_but_not_other_patients(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write_phantoms(tmp_path / "data", patients=4, tests=0, size=(24, 26, 22))
    assert cli.analyze(["--data", str(data), "--nfolds", "2"]) == 0
    cases = read_train_paths(tmp_path / "results" / "train_paths.csv").cases
    next(iter(cases[0].images.values())).write_bytes(b"no image")
    assert cli.preprocess([]) == 1
    shown = capfd.readouterr().err
    assert f"Case '{cases[0].id}'" in shown
    assert f"1 of 4 patients failed: {cases[0].id}" in shown
    assert sorted(path.stem for path in (tmp_path / "numpy" / "images").iterdir()) == sorted(c.id for c in cases[1:])


def test_only_missing_arrays_are_preprocessed(copied_study: Study) -> None:
    study = copied_study
    first, second = (study.image(case.id) for case in read_train_paths(study.train_paths).cases[:2])
    first.unlink()
    untouched = second.stat().st_mtime_ns
    assert cli.preprocess(["--results", str(study.results), "--numpy", str(study.numpy)]) == 0
    assert first.exists()
    assert second.stat().st_mtime_ns == untouched


def test_predict_matches_channels_by_name_and_evaluate_scores_its_masks(
    home: Path, finished: Study, tmp_path: Path
) -> None:
    cases = read_train_paths(finished.train_paths).cases[:2]
    names = list(cases[0].images)
    rows = [",".join(["id", *reversed(names)])]
    rows += [",".join([case.id, *(str(case.images[name]) for name in reversed(names))]) for case in cases]
    (tmp_path / "paths.csv").write_text("\n".join(rows))
    models = ["--models-dir", str(finished.models), "--config", str(finished.config)]
    assert cli.predict([*models, "--paths-csv", "paths.csv", "--output", "out", "--device", "cpu"]) == 0
    pairs = [f"{case.id},{case.mask},{tmp_path / 'out' / case.id}.nii.gz" for case in cases]
    (tmp_path / "pairs.csv").write_text("\n".join(["id,mask,prediction", *pairs]))
    done = ["--config", str(finished.config), "--paths-csv", "pairs.csv", "--output-csv", "scores.csv", "--validate"]
    assert cli.evaluate(done) == 0
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith(cases[0].id)


def test_a_killed_retraining_keeps_the_model_and_resumes_to_the_same_weights(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    kept = {path: path.read_bytes() for path in (study.model(0), study.passport(0), study.checkpoint(0))}
    where = ["--results", str(study.results), "--numpy", str(study.numpy), "--folds", "0", "--epochs", "3"]
    code = "import sys; from mist_dagster import cli; sys.exit(cli.train(sys.argv[1:]))"
    killed = subprocess.Popen([sys.executable, "-c", code, *where, "--overwrite"], stderr=subprocess.DEVNULL)
    while not study.attempt(0).exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert {path: path.read_bytes() for path in kept} == kept
    assert cli.status(where[:4]) == 0
    assert "Unfinished training of fold 0" in capfd.readouterr().err
    assert cli.train([*where, "--resume"]) == 0
    resumed = study.model(0).read_bytes()
    assert cli.train([*where, "--overwrite"]) == 0
    assert study.model(0).read_bytes() == resumed


def test_discarding_an_unfinished_training_keeps_the_model(
    copied_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    where = ["--results", str(study.results), "--numpy", str(study.numpy)]
    before = study.model(0).read_bytes()
    study.attempt(0).write_bytes(study.checkpoint(0).read_bytes())
    assert cli.train([*where, "--discard", "--resume"]) == 1
    assert "[flags-contradict]" in capfd.readouterr().err
    assert cli.train([*where, "--discard"]) == 0
    assert "Discarded 1 unfinished training (0)" in capfd.readouterr().err
    assert not study.attempt(0).exists()
    assert study.model(0).read_bytes() == before


def test_resuming_a_current_study_runs_nothing(
    copied_study: Study, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = copied_study
    where = ["--data", str(study.data), "--results", str(study.results), "--numpy", str(study.numpy)]
    before = {
        path: path.stat().st_mtime_ns for path in study.results.rglob("*") if path.suffix in (".gz", ".csv", ".pt")
    }
    assert cli.run_all([*where, "--resume", "--device", "cpu"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with instance() as opened:
        assert [run.tags["mist/stage"] for run in opened.get_runs()] == []
    assert "mean whole_lesion_dice" in capfd.readouterr().err
    study.cv_prediction("phantom_002").unlink()
    assert cli.run_all([*where, "--resume", "--device", "cpu"]) == 0
    with instance() as opened:
        assert [run.tags["mist/stage"] for run in opened.get_runs()] == [
            "status",
            "predict",
        ]  # the same mask, so its score is current
