"""Security rules on the syntax tree that ruff's rules (``S`` in pyproject.toml) do not cover."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("mist_ops", "mist_dagster") for path in (ROOT / package).rglob("*.py"))
STARTED_HERE = {"sys.executable", "command", "*command"}
"""First words of a command: Python itself, or a list that starts with it."""
OPENS_URLS = {
    "launch.py": "submits runs to the web server of the same DAGSTER_HOME",
    "failures.py": "reports failed runs to the webhook that the user set, once its sensor is started",
}
"""Modules that open a URL, and why."""


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of these functions, with its location."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def options(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a module imports."""
    tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in plain + [str(n.module) for n in tree if isinstance(n, ast.ImportFrom)]}


def test_weights_are_read_without_executing_code() -> None:
    found = dict(calls("torch.load"))
    assert found
    assert [location for location, call in found.items() if options(call).get("weights_only") != "True"] == []


def test_arrays_are_read_without_pickle_in_one_place_that_is_safe_for_threads() -> None:
    assert dict(calls("np.load", "numpy.load")) == {}
    (location,) = dict(calls("np.lib.format.open_memmap"))
    assert location.startswith("mist_ops/files.py")


@pytest.mark.parametrize("module", ["pickle", "marshal", "shelve", "dill", "joblib", "requests"])
def test_nothing_unpickles_or_downloads(module: str) -> None:
    assert [str(path) for path in FILES if module in imported(path)] == []


def test_no_archive_is_unpacked_into_files() -> None:
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not named & {"extract", "extractall", "unpack_archive"}


def test_processes_are_our_own_commands_and_never_a_shell() -> None:
    found = dict(calls("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call"))
    assert found
    for location, call in found.items():
        command = call.args[0]
        first = command.elts[0] if isinstance(command, ast.List) else command
        assert ast.unparse(first) in STARTED_HERE, location
        assert "shell" not in options(call), location
    assert list(calls("os.system", "os.popen", "os.execvp", "os.spawnvp")) == []


def test_only_known_modules_open_a_url() -> None:
    assert {path.name for path in FILES if "urllib.request" in path.read_text(encoding="utf-8")} == set(OPENS_URLS)


def test_servers_listen_on_this_machine_only() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    assert "0.0.0.0" not in text
    for location, call in calls("subprocess.Popen"):
        if "--port" in ast.unparse(call):
            assert "127.0.0.1" in ast.unparse(call), location
    bound = dict(calls("listener.bind", "probe.bind"))
    assert bound
    assert [location for location, call in bound.items() if "127.0.0.1" not in ast.unparse(call)] == []
