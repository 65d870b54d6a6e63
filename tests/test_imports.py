"""Imports go down only, and importing the package is cheap and changes nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import normtune

ROOT = Path(normtune.__file__).parent

#: The design's order: a module imports from its own level or from lower ones.
LEVELS = {
    **dict.fromkeys(("__main__",), 9),
    **dict.fromkeys(("cli", "serving"), 8),
    **dict.fromkeys(("report",), 7),
    **dict.fromkeys(("studies",), 6),
    **dict.fromkeys(("training", "evaluation", "importance", "deltas", "submission", "statistics"), 5),
    **dict.fromkeys(("fast", "machine"), 4),
    **dict.fromkeys(("methods",), 3),
    **dict.fromkeys(("models", "data", "records"), 2),
    **dict.fromkeys(("config", "files", "modes", "versions"), 1),
    **dict.fromkeys(("errors",), 0),
}

MODULES = {
    ".".join(("normtune", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}


def part(module: str) -> str:
    """The package or module right under normtune that `module` belongs to."""
    return module.split(".")[1]


def is_typing_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(source: str, module: str, known: Iterable[str], *, typing: bool = True) -> Iterator[str]:
    """Modules of normtune that `source` imports anywhere: at the top, in functions and, with `typing`, for types."""
    modules = {*known}

    def found(name: str) -> Iterator[str]:
        if name.split(".")[0] == "normtune":
            yield name

    def visit(node: ast.AST) -> Iterator[str]:
        if is_typing_guard(node) and not typing:
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from found(alias.name)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level or None] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield from found(whole if whole in modules else base)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(ast.parse(source))


def graph(*, typing: bool) -> dict[str, set[str]]:
    return {
        module: {*imports(file.read_text(encoding="utf-8"), module, MODULES, typing=typing)} - {module}
        for module, file in MODULES.items()
        if module != "normtune"
    }


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """A path from a node back to itself, or an empty list."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for following in sorted(edges.get(node, ())):
            if back := walk(following, [*way, node]):
                return back
        done.add(node)
        return []

    return next((back for node in sorted(edges) if (back := walk(node, []))), [])


def test_the_checks_can_fail():
    source = """
from __future__ import annotations
import normtune.cli.app
from typing import TYPE_CHECKING
from normtune.models import base, nothing
from .sibling import name
if TYPE_CHECKING:
    from normtune.records.run import Record
def lazily():
    from normtune.errors import ModelError
"""
    known = {"normtune.cli.app", "normtune.models.base", "normtune.data.sibling"}
    every = [
        *("normtune.cli.app", "normtune.models.base", "normtune.models", "normtune.data.sibling"),
        *("normtune.records.run", "normtune.errors"),
    ]
    assert [*imports(source, "normtune.data.here", known)] == every
    assert [*imports(source, "normtune.data.here", known, typing=False)] == [*every[:4], every[5]]
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_module_has_a_level():
    without = sorted({part(module) for module in MODULES if module != "normtune"} - LEVELS.keys())
    assert not without, f"give {without} a level in the table above, where the design puts it"


def test_imports_go_down():
    up = [
        f"{module} (level {LEVELS[part(module)]}) imports {target} (level {LEVELS[part(target)]})"
        for module, targets in graph(typing=True).items()
        for target in targets
        if target != "normtune" and LEVELS[part(target)] > LEVELS[part(module)]
    ]
    assert not up, "\n".join(up)


def test_the_package_itself_is_imported_by_none_of_its_modules():
    assert not [module for module, targets in graph(typing=True).items() if "normtune" in targets]


def test_no_module_imports_itself_by_a_detour():
    assert cycle(graph(typing=True)) == []


def test_no_package_imports_itself_by_a_detour():
    packages: dict[str, set[str]] = {}
    for module, targets in graph(typing=False).items():  # imports for types make no cycle
        packages.setdefault(part(module), set()).update({part(t) for t in targets if t != "normtune"} - {part(module)})
    assert cycle(packages) == []


def test_what_is_imported_is_there():
    missing = [(module, t) for module, targets in graph(typing=True).items() for t in targets if t not in MODULES]
    assert not missing


def after(code: str) -> list[str]:
    """Names of the modules that are loaded after `code` ran in a fresh interpreter."""
    report = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + report], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.stderr == ""
    loaded: list[str] = json.loads(done.stdout)
    return loaded


HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "sklearn",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "pydantic",
)


def test_importing_the_package_is_cheap():
    loaded = after("import normtune")
    assert not {*HEAVY} & {*loaded}
    assert [name for name in loaded if name.startswith("normtune")] == ["normtune"]


def test_importing_the_command_line_is_cheap():
    assert not {"torch", "transformers", "accelerate", "sklearn"} & {*after("import normtune.cli.app")}


def test_importing_the_package_changes_nothing():
    code = """
import os, random, signal, sys, warnings, logging, threading
def state():
    return (dict(os.environ), list(warnings.filters), list(sys.path), os.getcwd(), random.getstate(),
            signal.getsignal(signal.SIGINT), len(logging.root.handlers), logging.root.level, threading.active_count())
before = state()
import normtune
assert state() == before
"""
    after(code)


@pytest.mark.parametrize("name", normtune.__all__)
def test_public_names_resolve(name):
    value = getattr(normtune, name)
    assert name in dir(normtune)
    home = getattr(value, "__module__", "normtune")
    # A class or a function comes from the module that the table names.
    assert home == f"normtune.{normtune._PUBLIC[name]}" or not callable(value)


def test_the_names_for_type_checkers_are_the_public_ones():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if is_typing_guard(node))
    stated = {(alias.asname, node.module) for node in guard.body for alias in node.names}
    assert stated == {(name, f"normtune.{module}") for name, module in normtune._PUBLIC.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        normtune.nope  # noqa: B018
