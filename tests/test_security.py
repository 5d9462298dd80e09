"""What the code may not do, by its syntax tree: that which ruff's rules (``S`` in pyproject.toml) do not know."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("mist_ops", "mist_dagster") for path in (ROOT / package).rglob("*.py"))
STARTED_HERE = {"sys.executable", "command", "*command"}
"""What a command may begin with: Python itself, or a list that begins with it."""
ASKS_OTHERS = {"launch.py": "tells the web server of this home what to run"}
"""Modules that open an address, and why."""


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of these functions, with where it stands."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def options(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def imported(path: Path) -> set[str]:
    """The first parts of everything that a module imports."""
    tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    return {name.split(".")[0] for name in plain + [str(n.module) for n in tree if isinstance(n, ast.ImportFrom)]}


def test_weights_are_read_without_running_what_is_in_them() -> None:
    found = dict(calls("torch.load"))
    assert found
    assert [place for place, call in found.items() if options(call).get("weights_only") != "True"] == []


def test_arrays_are_read_without_pickle() -> None:
    found = dict(calls("np.load", "numpy.load"))
    assert found
    assert [place for place, call in found.items() if options(call).get("allow_pickle", "False") != "False"] == []


@pytest.mark.parametrize("module", ["pickle", "marshal", "shelve", "dill", "joblib", "requests"])
def test_nothing_unpickles_or_downloads(module: str) -> None:
    assert [str(path) for path in FILES if module in imported(path)] == []


def test_no_archive_is_unpacked_into_files() -> None:
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not named & {"extract", "extractall", "unpack_archive"}


def test_processes_are_commands_of_ours_and_never_a_shell() -> None:
    found = dict(calls("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call"))
    assert found
    for place, call in found.items():
        command = call.args[0]
        first = command.elts[0] if isinstance(command, ast.List) else command
        assert ast.unparse(first) in STARTED_HERE, place
        assert "shell" not in options(call), place
    assert list(calls("os.system", "os.popen", "os.execvp", "os.spawnvp")) == []


def test_no_address_is_opened_but_that_of_our_own_server() -> None:
    assert {path.name for path in FILES if "urllib.request" in path.read_text(encoding="utf-8")} == set(ASKS_OTHERS)


def test_servers_listen_on_this_machine_alone() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    assert "0.0.0.0" not in text
    for place, call in calls("subprocess.Popen"):
        if "--port" in ast.unparse(call):
            assert "127.0.0.1" in ast.unparse(call), place
