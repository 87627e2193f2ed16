"""While this is on, tensors that functions of the package take and give are held to the shapes in annotations."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

import smft_lab

SOURCES = Path(smft_lab.__file__).parent
SHAPE = re.compile("""Tensor, ['"]""")  # in an annotation


class ShapeChecks:
    """The functions whose annotations say a shape, each in the place of itself with a check around it.

    Attributes:
        known: Their names.
        called: The names of those that were called.
        wrong: What was not shaped as an annotation says. It is raised, too, but the package goes on after some errors.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *others: str):
        """
        Args:
            others: Names of modules that have imported functions of the package by name.
        """
        self.known: set[str] = set()
        self.called: set[str] = set()
        self.wrong: list[str] = []
        checked = {}
        for module in modules_with_shapes():
            names = names_in_annotations(module)
            for holder, name, member in members(module):
                if (stand_in := self._member(member, names)) is not None:
                    patch.setattr(holder, name, stand_in)
                    checked[member] = stand_in
        callers = [name for name in sys.modules if name.startswith("smft_lab.") or name in others]
        for module in map(sys.modules.__getitem__, callers):
            for name, value in list(vars(module).items()):
                if isinstance(value, FunctionType) and value in checked:
                    patch.setattr(module, name, checked[value])

    @property
    def public(self) -> set[str]:
        """Those of `known` that are no helpers."""
        return {name for name in self.known if "._" not in name.replace("__init__", "").replace("__call__", "")}

    def _member(self, member, names: dict[str, Any]):
        if isinstance(member, staticmethod | classmethod):
            function = self._function(member.__func__, names)
            return function and type(member)(function)
        if isinstance(member, property):
            function = self._function(member.fget, names)
            return function and property(function, member.fset, member.fdel)
        return self._function(member, names)

    def _function(self, function: Callable, names: dict[str, Any]) -> Callable | None:
        """The function with its check; None where its annotations say no shape."""
        every = inspect.unwrap(function).__annotations__.items()
        hints = {name: eval(hint, names) for name, hint in every if SHAPE.search(str(hint))}
        if not hints:
            return None
        title = f"{function.__module__.removeprefix('smft_lab.')}.{function.__qualname__}"
        self.known.add(title)

        def called(*args, **kwargs):
            self.called.add(title)
            return function(*args, **kwargs)

        signature = inspect.signature(function)
        parameters = [part.replace(annotation=hints.get(part.name, Any)) for part in signature.parameters.values()]
        called.__signature__ = signature.replace(parameters=parameters, return_annotation=hints.get("return", Any))
        checked = jaxtyped(typechecker=beartype)(called)

        @functools.wraps(function)
        def held(*args, **kwargs):
            try:
                return checked(*args, **kwargs)
            except TypeCheckError as problem:
                self.wrong.append(f"{title}: {problem}")
                raise

        return held


def modules_with_shapes() -> Iterator[ModuleType]:
    for file in sorted(SOURCES.rglob("*.py")):
        if "from jaxtyping import" in file.read_text():
            yield import_module(".".join(["smft_lab", *file.relative_to(SOURCES).with_suffix("").parts]))


def names_in_annotations(module: ModuleType) -> dict[str, Any]:
    """The names of a module, and those that it imports for type checkers alone."""
    names = dict(vars(module))
    for branch in ast.parse(Path(module.__file__).read_text()).body:
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(branch.body, []), module.__file__, "exec"), names)
    return names


def members(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """Where each function, method and property of a module is, its name there, and itself."""
    for name, member in list(vars(module).items()):
        if getattr(member, "__module__", None) != module.__name__:
            continue
        if isinstance(member, FunctionType):
            yield module, name, member
        elif isinstance(member, type):
            for inner, part in list(vars(member).items()):
                if isinstance(part, FunctionType | staticmethod | classmethod | property):
                    yield member, inner, part
