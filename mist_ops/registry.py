"""Registries of models, losses, metrics and other parts by name; all are declared at the end of this module.

A registry imports the modules of its ``home`` package on the first lookup, so a new loss is one new file that calls
``LOSSES.register``. Other packages add entries through the entry-point group ``mist_ops.plugins``: each entry point
names a module that registers them on import.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from mist_ops.errors import ConfigError

if TYPE_CHECKING:
    from mist_ops.augmentation import Augmentation, SpatialAugmentation
    from mist_ops.ensembling import LabelEnsembler, ProbabilityEnsembler
    from mist_ops.losses import Loss
    from mist_ops.losses.blending import Blending
    from mist_ops.metrics import Metric
    from mist_ops.models import Architecture
    from mist_ops.optimizers import OptimizerFactory
    from mist_ops.postprocessing import Transform
    from mist_ops.schedulers import Schedule

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """A lazy mapping from names to entries of one kind.

    Args:
        kind: Noun for an entry in messages, such as ``"loss"``.
        home: Module or package whose modules register the built-in entries when imported.
    """

    def __init__(self, kind: str, home: str) -> None:
        self.kind = kind
        self.home = home
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under a name.

        Raises:
            ValueError: The name is registered already.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"The {self.kind} {name!r} is registered twice.")
            self._entries[name] = entry
            return entry

        return add

    def _load(self) -> dict[str, T]:
        if not self._loaded:
            self._loaded = True
            for module in (self.home, *_modules_of(self.home)):
                importlib.import_module(module)
            for plugin in entry_points(group="mist_ops.plugins"):
                plugin.load()
        return self._entries

    def builtin_names(self) -> list[str]:
        """List the names of the built-in entries for ``--help``, without importing torch.

        Literal names are read from the source of the home. A module that computes its names is imported; it must not
        import torch.
        """
        names: set[str] = set()
        for module in (self.home, *_modules_of(self.home)):
            found = {name for name, _ in self._registered_in(module)}
            if None in found:
                importlib.import_module(module)
            names |= {name for name in found if name is not None}
        return sorted(names | self._entries.keys())

    def declared(self, name: str, field: str, default: object) -> object:
        """A field of an entry, without importing torch if the source of the home gives it as a literal.

        Args:
            name: Name of the entry.
            field: Name of the field.
            default: Its value where the source does not give it.
        """
        for module in (self.home, *_modules_of(self.home)) if not self._loaded else ():
            for found, entry in self._registered_in(module):
                if found == name and entry is not None and len(entry.args) == 1:
                    given = {word.arg: word.value for word in entry.keywords}
                    with contextlib.suppress(ValueError):  # not a literal
                        return ast.literal_eval(given[field]) if field in given else default
        return getattr(self[name], field)

    def _registered_in(self, module: str) -> Iterator[tuple[str | None, ast.Call | None]]:
        """What a module registers here: names, None where it is not a literal, and the calls that make the entries."""
        spec = importlib.util.find_spec(module)
        if spec is None or not (spec.origin or "").endswith(".py"):
            yield None, None
            return
        source = Path(str(spec.origin)).read_text(encoding="utf-8")
        nodes = list(ast.walk(ast.parse(source))) if ".register(" in source else []
        applied = {id(node.func): node.args[0] for node in nodes if isinstance(node, ast.Call) and node.args}
        for node in nodes:
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=registry), attr="register"), args=[name]):
                    if globals().get(registry) is self:
                        entry = applied.get(id(node))
                        literal = str(name.value) if isinstance(name, ast.Constant) else None
                        yield literal, entry if isinstance(entry, ast.Call) else None

    def __getitem__(self, name: str) -> T:
        entries = self._load()
        if name not in entries:
            raise UnknownName(self.kind, name, sorted(entries))
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def __len__(self) -> int:
        return len(self._load())


def _modules_of(home: str) -> list[str]:
    spec = importlib.util.find_spec(home)
    folders = spec.submodule_search_locations if spec else None
    return [f"{home}.{module.name}" for module in pkgutil.iter_modules(folders or ())]


class UnknownName(ConfigError, KeyError):
    """A name that is not in a registry.

    Attributes:
        guess: The message without the list of known names, for messages about several names.
    """

    __str__ = ConfigError.__str__  # that of KeyError would quote the message

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=1)
        guess = f"Unknown {kind} '{name}'." + (f" Did you mean '{near[0]}'?" if near else "")
        code = f"unknown-{kind.replace(' ', '-')}"
        super().__init__(f"{guess} Known: {', '.join(known)}.", code=code, found=name, expected=known)
        self.guess = guess


MODELS: Registry[Architecture] = Registry("model", home="mist_ops.models")
LOSSES: Registry[Loss] = Registry("loss", home="mist_ops.losses")
BLENDINGS: Registry[Blending] = Registry("composite loss weighting", home="mist_ops.losses.blending")
METRICS: Registry[Metric] = Registry("metric", home="mist_ops.metrics")
TRANSFORMS: Registry[Transform] = Registry("transform", home="mist_ops.postprocessing")
LABEL_ENSEMBLERS: Registry[LabelEnsembler] = Registry("ensemble backend", home="mist_ops.ensembling.labels")
PROBABILITY_ENSEMBLERS: Registry[ProbabilityEnsembler] = Registry(
    "probability ensemble backend", home="mist_ops.ensembling.probabilities"
)
AUGMENTATIONS: Registry[Augmentation | SpatialAugmentation] = Registry("augmentation", home="mist_ops.augmentation")
OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer", home="mist_ops.optimizers")
SCHEDULERS: Registry[Schedule] = Registry("lr scheduler", home="mist_ops.schedulers")
