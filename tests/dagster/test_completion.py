"""Shell completion and synthetic datasets, which start no run."""

import builtins
import subprocess
import tomllib
from pathlib import Path

import pytest

from mist_dagster import cli

ROOT = Path(__file__).resolve().parents[2]


def test_bash_completes_flags_and_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    assert cli.completion(["bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    completed = """
source ./script
COMP_WORDS=(mist_train --res); COMP_CWORD=1; _shtab_mist_train mist_train --res mist_train; echo "${COMPREPLY[@]}"
COMP_WORDS=(mist_train --model nnu); COMP_CWORD=2; _shtab_mist_train mist_train nnu --model; echo "${COMPREPLY[@]}"
"""
    run = subprocess.run(["bash", "-c", completed], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["--results --resume", "nnunet nnunet-pocket"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_every_command_is_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert cli.completion([shell]) == 0
    written = capsys.readouterr().out
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    missing = {name for name in scripts if f"_shtab_{name}" not in written}
    assert missing == {"mist_completion"}


def test_without_shtab_completion_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_shtab(name: str, *rest: object) -> object:
        if name == "shtab":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_shtab)
    assert cli.completion(["bash"]) == 1
    assert "mist-dagster[completion]" in capsys.readouterr().err


def test_phantoms_are_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    assert cli.phantoms(["--output", str(data), "--patients", "2", "--tests", "1"]) == 0
    written = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.nii.gz"))
    assert len(written) == 2 * 3 + 2
    assert f"mist_analyze --data {data / 'dataset.json'}" in capsys.readouterr().out
    assert cli.phantoms(["--output", str(data)]) == 1
    assert str(data) in capsys.readouterr().err
    assert sorted(path.relative_to(data).as_posix() for path in data.rglob("*.nii.gz")) == written
