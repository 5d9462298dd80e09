"""Errors that the packages raise, found in their source: codes, classes, modules and messages."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("mist_ops", "mist_dagster")

_POSITION = {"_Mistake": 1}
"""Classes whose code is a positional argument."""


@dataclass(frozen=True)
class Raised:
    """A place that creates an error.

    Attributes:
        kind: Class of the error.
        module: Dotted name of the module.
        line: Line in its file.
        messages: Templates of the message by code; empty if it has the code of another error.
        has_code: Whether it has a code.
    """

    kind: str
    module: str
    line: int
    messages: tuple[tuple[str, str], ...]
    has_code: bool


def raised() -> Iterator[Raised]:
    """Yield each place that creates a ``MistError``, by module and line."""
    trees = _trees()
    family = _family(trees)
    for module, tree in trees.items():
        for function, call in _calls(tree, None):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name in family or name in _POSITION or (name == "kind" and call.keywords):
                yield _raised(call, name, module, function, tree)


@cache
def _trees() -> Mapping[str, ast.Module]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


def _family(trees: Mapping[str, ast.Module]) -> set[str]:
    """Names of ``MistError`` and its subclasses, except those that set their code themselves."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    family, before = {"MistError"}, 0
    while len(family) > before:
        before = len(family)
        family |= {node.name for node in classes for base in node.bases if ast.unparse(base) in family}
    return family - {"UnusableCase", "UnknownName"}


def _calls(node: ast.AST, function: ast.AST | None) -> Iterator[tuple[ast.AST | None, ast.Call]]:
    """Yield all calls with the functions that contain them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        yield from _calls(child, child if isinstance(child, ast.FunctionDef) else function)


def _raised(call: ast.Call, kind: str, module: str, function: ast.AST | None, tree: ast.Module) -> Raised:
    position = _POSITION.get(kind)
    given = next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)
    value = call.args[position] if position is not None and len(call.args) > position else given
    codes = [] if value is None else _codes(value, function, tree)
    relayed = any(keyword.arg is None for keyword in call.keywords) or isinstance(value, ast.Attribute | ast.Name)
    message = call.args[1 if kind == "CaseError" else 0] if call.args else None
    sources = _assigned(message, function) if len(codes) > 1 else []
    templates = [_template(source) for source in sources] or [_template(message)]
    messages = zip(codes, templates if len(templates) == len(codes) else templates[:1] * len(codes), strict=True)
    return Raised(kind, module, call.lineno, tuple(messages), bool(codes) or relayed)


def _codes(value: ast.AST, function: ast.AST | None, tree: ast.Module) -> list[str]:
    """List the codes that an expression may have; for a name, those assigned or passed to it."""
    if isinstance(value, ast.Constant):
        return [str(value.value)]
    if isinstance(value, ast.FormattedValue):
        return _codes(value.value, function, tree)
    if isinstance(value, ast.IfExp):
        return [*_codes(value.body, function, tree), *_codes(value.orelse, function, tree)]
    if isinstance(value, ast.JoinedStr):
        return ["".join(parts) for parts in product(*(_codes(part, function, tree) for part in value.values))]
    sources = [*_assigned(value, function), *_passed(value, function, tree)]
    return [code for source in sources for code in _codes(source, None, tree)]


def _assigned(name: ast.AST | None, function: ast.AST | None) -> list[ast.AST]:
    """List the expressions that a function assigns to a name, by itself or in a tuple."""
    if function is None or not isinstance(name, ast.Name):
        return []
    found: list[ast.AST] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
            found += [value for target, value in pairs if isinstance(target, ast.Name) and target.id == name.id]
    return found


def _passed(name: ast.AST, function: ast.AST | None, tree: ast.Module) -> list[ast.AST]:
    """List the expressions that calls in the same module pass to a parameter."""
    if not isinstance(name, ast.Name) or not isinstance(function, ast.FunctionDef):
        return []
    names = [argument.arg for argument in function.args.args]
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == function.name:
            arguments: dict[str | None, ast.AST] = dict(zip(names, node.args, strict=False))
            arguments |= {keyword.arg: keyword.value for keyword in node.keywords}
            found += [arguments[name.id]] if name.id in arguments else []
    return found


def _template(node: ast.AST | None) -> str:
    """Render a message with its placeholders; an expression other than a name becomes an ellipsis."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    if isinstance(node, ast.FormattedValue):
        node = node.value
    if isinstance(node, ast.Name | ast.Attribute):
        return "{" + ast.unparse(node).rsplit(".", 1)[-1] + "}"
    return "…"
