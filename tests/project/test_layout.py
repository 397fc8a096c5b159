"""The house rules, checked on the source: floors, and what library code does not do.

A module of hfprune imports only from lower floors, whether at the top of the file, inside a
function or under ``TYPE_CHECKING``. A new module needs a line in ``FLOORS``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hfprune"

FLOORS = {
    "errors": 0,
    "faults": 0,
    "recipe": 1,
    "schedule": 1,
    "plan": 1,
    "files": 1,
    "machine": 1,
    "programme": 1,
    "charts": 1,
    "workplan": 2,
    "tasks": 2,
    "images": 2,
    "tokens": 2,
    "structure": 2,
    "gates": 3,
    "lora": 2,
    "entities": 3,
    "imbalance": 3,
    "figures": 3,
    "surgery": 3,
    "data": 3,
    "augment": 3,
    "metrics": 4,
    "importance": 4,
    "reconstruction": 4,
    "search": 4,
    "distill": 4,
    "checkpoint": 4,
    "vocabulary": 4,
    "cost": 4,
    "graph": 4,
    "comparison": 5,
    "sentences": 5,
    "trainer": 5,
    "compress": 5,
    "loading": 5,
    "export": 5,
    "benchmark": 5,
    "report": 5,
    "hub": 5,
    "evaluation": 6,
    "html_report": 6,
    "inspection": 6,
    "latency": 6,
    "quantize": 6,
    "pipeline": 7,
    "cli": 8,
    # The package itself and `python -m hfprune`: they may import all, and nothing imports them.
    "__init__": 9,
    "__main__": 9,
}
# Inside structure/: any file that is not named here is a family. So families import `base` alone.
STRUCTURE_FLOORS = {"base": 0, "registry": 2, "__init__": 3}
FAMILY_FLOOR = 1


def module_name(path: Path, root: Path = ROOT) -> str:
    """``hfprune/structure/bert.py`` -> ``hfprune.families.bert``; ``__init__`` is kept."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def library_modules() -> dict[str, str]:
    """The name and the source of every module of the package."""
    return {
        module_name(path): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


# --- floors ---------------------------------------------------------------------------------


def imported_modules(
    source: str, importer: str, known: frozenset[str]
) -> Iterator[tuple[int, str]]:
    """Yield ``(line, module)`` for every module of hfprune that the source imports.

    ``importer`` and ``known`` are names as ``module_name`` gives them; ``known`` tells
    ``from hfprune import recipe`` (a module) from ``from hfprune import Recipe`` (a name that the
    package defines).
    """

    def package(name: str) -> str:
        return f"{name}.__init__" if f"{name}.__init__" in known or name == "hfprune" else name

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = importer.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            names = []
            for alias in node.names:
                child = f"{base}.{alias.name}"
                names.append(child if {child, f"{child}.__init__"} & known else base)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            name = node.args[0].value
            level = len(name) - len(name.lstrip("."))
            parents = importer.split(".")[:-level] if level else []
            names = [".".join([*parents, name.lstrip(".")]).rstrip(".")]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "hfprune":
                yield node.lineno, package(name)
            elif name.partition(".")[0] in {"scripts", "tests"}:
                yield node.lineno, name


def position(module: str) -> tuple[int, int]:
    """The floor of a module and its floor inside the package that it belongs to.

    Raises:
        LookupError: for a module without a line in ``FLOORS``.
    """
    _, top, *rest = module.split(".")
    if top not in FLOORS:
        raise LookupError(
            f"{module} has no floor: add {top!r} to FLOORS in tests/test_layout.py, on the lowest "
            "floor above all that it imports"
        )
    inner = 0
    if top == "structure" and rest:
        inner = STRUCTURE_FLOORS.get(rest[0], FAMILY_FLOOR)
    return FLOORS[top], inner


def floor_violations(modules: dict[str, str]) -> list[str]:
    """One sentence for every import that does not go down, and every module without a floor."""
    found = []
    known = frozenset(modules)
    for importer, source in modules.items():
        try:
            floor, inner = position(importer)
        except LookupError as error:
            found.append(str(error))
            continue
        for line, imported in imported_modules(source, importer, known):
            where = f"{importer}, line {line}: imports {imported}"
            if not imported.startswith("hfprune."):
                found.append(f"{where}, which is not part of the package")
                continue
            try:
                other_floor, other_inner = position(imported)
            except LookupError:
                if imported not in known:
                    found.append(f"{where}, which does not exist")
                continue  # An existing one is reported as an importer.
            same_package = importer.split(".")[1] == imported.split(".")[1] == "structure"
            if same_package and other_inner >= inner:
                found.append(
                    f"{where}: inside structure/ a family imports only base, the registry imports "
                    "base and families, and nothing imports the package"
                )
            elif not same_package and other_floor >= floor:
                found.append(
                    f"{where}: floor {floor} may import only from lower floors, not from floor "
                    f"{other_floor}"
                )
    return found


def test_every_import_goes_down() -> None:
    violations = floor_violations(library_modules())
    assert not violations, "\n".join(violations)


def test_the_check_reads_the_real_package() -> None:
    modules = library_modules()
    known = frozenset(modules)
    assert "hfprune.errors" in modules
    imports = [
        found for name, text in modules.items() for found in imported_modules(text, name, known)
    ]
    assert imports, "no import of hfprune was found in hfprune: the check sees nothing"


BASE_HOUSE = {
    "hfprune.__init__": "from hfprune.trainer import T\n",
    "hfprune.errors": "",
    "hfprune.recipe": "from hfprune.errors import E\n",
    "hfprune.plan": "from .errors import E\n",
    "hfprune.families.__init__": "from hfprune.families.registry import R\n",
    "hfprune.families.base": "from hfprune import plan\n",
    "hfprune.families.bert": "from hfprune.families.base import A\n",
    "hfprune.families.gpt": "from .base import A\nfrom ..errors import E\n",
    "hfprune.families.registry": "from hfprune.families import base, bert\n",
    "hfprune.gates": "import hfprune.families\nfrom hfprune.families.base import A\n",
    "hfprune.trainer": "def f():\n    from hfprune.gates import G\n",
}


def test_a_sound_house_passes() -> None:
    assert floor_violations(BASE_HOUSE) == []


@pytest.mark.parametrize(
    ("importer", "source", "message"),
    [
        ("hfprune.gates", "from hfprune.trainer import T", "not from floor 5"),
        ("hfprune.recipe", "import hfprune.plan", "imports hfprune.plan: floor 1"),
        ("hfprune.recipe", "from hfprune import plan", "imports hfprune.plan: floor 1"),
        ("hfprune.recipe", "from . import plan", "imports hfprune.plan: floor 1"),
        ("hfprune.recipe", "from .plan import P", "imports hfprune.plan: floor 1"),
        ("hfprune.recipe", "def f():\n    from hfprune.plan import P", "line 2"),
        (
            "hfprune.recipe",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hfprune.gates as g",
            "line 3: imports hfprune.gates",
        ),
        ("hfprune.recipe", "import importlib\nimportlib.import_module('hfprune.plan')", "line 2"),
        ("hfprune.recipe", "import_module('.plan', __package__)", "imports hfprune.plan"),
        ("hfprune.trainer", "from hfprune import Trainer", "imports hfprune.__init__: floor 5"),
        ("hfprune.trainer", "import hfprune", "imports hfprune.__init__: floor 5"),
        ("hfprune.families.bert", "from .gpt import A", "a family imports only base"),
        ("hfprune.families.bert", "from hfprune.families import R", "a family imports only base"),
        (
            "hfprune.families.bert",
            "import hfprune.families.registry",
            "a family imports only base",
        ),
        ("hfprune.families.base", "from hfprune.families.bert import B", "imports only base"),
        ("hfprune.families.base", "from ..gates import G", "not from floor 3"),
        ("hfprune.plan", "from ..scripts import prune", "not part of the package"),
        ("hfprune.plan", "import scripts.prune", "not part of the package"),
        ("hfprune.plan", "import hfprune.novelty", "imports hfprune.novelty, which does not exist"),
        ("hfprune.novelty", "", "hfprune.novelty has no floor: add 'novelty' to FLOORS"),
    ],
)
def test_a_violation_is_found(importer: str, source: str, message: str) -> None:
    (violation,) = floor_violations({**BASE_HOUSE, importer: source})
    assert importer in violation
    assert message in violation


# --- what library code does not do ----------------------------------------------------------

UNSAFE_MODULES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"})
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX)\b")


def bad_habits(source: str) -> list[str]:
    """One sentence for every bare assert, unsafe call or unfinished place in the source."""
    found = []
    tree = ast.parse(source)
    # What each name of the file stands for, so that an alias hides nothing.
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                aliases[alias.asname or top] = alias.name if alias.asname else top
                if top in UNSAFE_MODULES:
                    found.append(
                        f"line {node.lineno}: imports {alias.name}, which can run code it reads"
                    )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if node.module.partition(".")[0] in UNSAFE_MODULES:
                found.append(
                    f"line {node.lineno}: imports {node.module}, which can run code it reads"
                )

    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"line {node.lineno}: a bare assert; raise one of hfprune's errors")
        elif isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if ast.unparse(raised) == "NotImplementedError":
                found.append(f"line {node.lineno}: a stub (NotImplementedError)")
        elif isinstance(node, ast.Name | ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            name = aliases.get(first, first) + dot + rest
            if name in {"eval", "exec", "builtins.eval", "builtins.exec"}:
                found.append(f"line {node.lineno}: uses {name}")
            elif name in {"torch.load", "torch.serialization.load"}:
                found.append(
                    f"line {node.lineno}: uses torch.load; weights are read as safetensors"
                )
        elif (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and not (isinstance(node.value, ast.Constant) and node.value.value is False)
        ):
            found.append(f"line {node.value.lineno}: allows pickle")

    for number, line in enumerate(source.splitlines(), start=1):
        if UNFINISHED.search(line):
            found.append(f"line {number}: unfinished: {line.strip()}")
    return found


def test_the_library_has_no_bad_habits() -> None:
    found = [
        f"{name}, {habit}"
        for name, source in library_modules().items()
        for habit in bad_habits(source)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nassert x", "line 2: a bare assert"),
        ("eval('1')", "uses eval"),
        ("import builtins\nbuiltins.exec('1')", "uses builtins.exec"),
        ("def f():\n    import pickle", "line 2: imports pickle"),
        ("from dill import loads", "imports dill"),
        ("import torch\ntorch.load('x', weights_only=True)", "line 2: uses torch.load"),
        ("import torch as t\nread = t.load", "line 2: uses torch.load"),
        ("from torch import load as read\nread('x')", "uses torch.load"),
        ("import numpy\nnumpy.load('x', allow_pickle=True)", "line 2: allows pickle"),
        ("def f():\n    raise NotImplementedError", "line 2: a stub"),
        ("def f():\n    raise NotImplementedError('later')", "line 2: a stub"),
        ("x = 1  # TODO: more", "line 1: unfinished: x = 1  # TODO: more"),
    ],
)
def test_a_bad_habit_is_found(source: str, message: str) -> None:
    (habit,) = bad_habits(source)
    assert message in habit


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "from safetensors.torch import load_file\nload_file('x')",
        "import json\njson.load(file)",
        "try:\n    f()\nexcept NotImplementedError:\n    g()",
        "import numpy\nnumpy.load('x', allow_pickle=False)",
        "from torch.nn import functional\nfunctional.relu(x)",
    ],
)
def test_sound_code_is_left_alone(source: str) -> None:
    assert bad_habits(source) == []
