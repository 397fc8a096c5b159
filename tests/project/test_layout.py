"""The house rules, checked on the source: floors, sizes, and what library code does not do.

A package of hfprune imports only from packages on lower floors, whether at the top of the file,
inside a function or under ``TYPE_CHECKING``; inside a package no modules import each other in a
circle. A new package needs a line in ``FLOORS``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hfprune"

FLOORS = {
    "core": 0,
    "recipe": 1,
    "families": 1,
    "data": 2,
    "measure": 3,
    "pruning": 3,
    "models": 4,
    "training": 5,
    "deploy": 5,
    "early": 5,
    "report": 6,
    "publish": 6,
    "pipeline": 7,
    "api": 8,
    "cli": 8,
    # The package itself and `python -m hfprune`: they may import all, and nothing imports them.
    "__init__": 9,
    "__main__": 9,
}
# What a family may import. Any other file of families/ but the registry is a family.
FAMILY_BASE = ("base", "blocks", "parts", "pre_norm", "post_norm")
NO_FAMILY = (*FAMILY_BASE, "registry", "__init__")

LONGEST_FILE = 400
MOST_METHODS = 25
# What is longer still, with its size. A number here may only fall, and goes once it is no more
# than the limit.
LONG_FILES = {}
LARGE_CLASSES: dict[str, int] = {}


def module_name(path: Path, root: Path = ROOT) -> str:
    """``hfprune/families/bert.py`` -> ``hfprune.families.bert``; ``__init__`` is kept."""
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


def package_of(module: str) -> str:
    """The package right below hfprune, or ``__init__`` and ``__main__`` for hfprune itself."""
    return module.split(".")[1]


def is_family(module: str) -> bool:
    parts = module.split(".")
    return parts[1] == "families" and len(parts) == 3 and parts[2] not in NO_FAMILY


def floor_violations(modules: Mapping[str, str]) -> list[str]:
    """One sentence for every import that does not go down, and every package without a floor."""
    found = []
    known = frozenset(modules)
    for importer, source in modules.items():
        package = package_of(importer)
        if package not in FLOORS:
            found.append(
                f"{importer} has no floor: add {package!r} to FLOORS in "
                "tests/project/test_layout.py, on the lowest floor above all that it imports"
            )
            continue
        for line, imported in imported_modules(source, importer, known):
            where = f"{importer}, line {line}: imports {imported}"
            other = package_of(imported) if imported.startswith("hfprune.") else ""
            if not other:
                found.append(f"{where}, which is not part of the package")
            elif imported not in known:
                found.append(f"{where}, which does not exist")
            elif is_family(importer) and other == package:
                if imported.rpartition(".")[2] not in FAMILY_BASE:
                    found.append(
                        f"{where}: of families/ a family imports only {', '.join(FAMILY_BASE)}"
                    )
            elif other != package and FLOORS.get(other, -1) >= FLOORS[package]:
                found.append(
                    f"{where}: floor {FLOORS[package]} may import only from lower floors, not from "
                    f"floor {FLOORS[other]}"
                )
    return found


def circles(modules: Mapping[str, str]) -> list[str]:
    """Every set of modules that import each other in a circle, in one sentence each."""
    known = frozenset(modules)
    below = {
        module: {name for _, name in imported_modules(source, module, known)} & known - {module}
        for module, source in modules.items()
    }
    # What is on no circle goes: modules that import none of those that are left, and those that
    # none of them imports. (What lies between two circles stays, and is named with them.)
    left = dict(below)
    while True:
        imported = set().union(*(names & left.keys() for names in left.values()))
        kept = {m: n for m, n in left.items() if n & left.keys() and m in imported}
        if len(kept) == len(left):
            break
        left = kept
    return [f"{', '.join(sorted(left))}: import each other in a circle"] if left else []


def test_every_import_goes_down() -> None:
    violations = floor_violations(library_modules())
    assert not violations, "\n".join(violations)


def test_no_modules_import_each_other() -> None:
    assert not circles(library_modules())


def test_every_floor_is_of_a_package() -> None:
    there = {package_of(module) for module in library_modules()}
    assert there == set(FLOORS), "FLOORS names what is no more, or lacks what is new"


def test_the_check_reads_the_real_package() -> None:
    modules = library_modules()
    known = frozenset(modules)
    assert "hfprune.core.errors" in modules
    imports = [
        found for name, text in modules.items() for found in imported_modules(text, name, known)
    ]
    assert len(imports) > len(modules), "hardly an import of hfprune was found in hfprune"


BASE_HOUSE = {
    "hfprune.__init__": "from hfprune.training.trainer import T\n",
    "hfprune.core.__init__": "",
    "hfprune.core.errors": "",
    "hfprune.core.files": "from .errors import E\n",
    "hfprune.recipe.__init__": "from hfprune.recipe.reading import R\n",
    "hfprune.recipe.reading": "from hfprune.core.errors import E\n",
    "hfprune.families.__init__": "from hfprune.families.registry import R\n",
    "hfprune.families.base": "from hfprune.core import errors\n",
    "hfprune.families.parts": "from .base import A\n",
    "hfprune.families.bert": "from hfprune.families.base import A\n",
    "hfprune.families.gpt": "from .parts import A\nfrom ..core.errors import E\n",
    "hfprune.families.registry": "from hfprune.families import base, bert\n",
    "hfprune.pruning.__init__": "",
    "hfprune.pruning.gates": "import hfprune.families\nfrom hfprune.families.base import A\n",
    "hfprune.pruning.plan": "",
    "hfprune.training.__init__": "",
    "hfprune.training.trainer": "def f():\n    from hfprune.pruning.gates import G\n",
}


def test_a_sound_house_passes() -> None:
    assert floor_violations(BASE_HOUSE) == []
    assert circles(BASE_HOUSE) == []


@pytest.mark.parametrize(
    ("importer", "source", "message"),
    [
        ("hfprune.pruning.gates", "from hfprune.training.trainer import T", "not from floor 5"),
        ("hfprune.recipe.reading", "import hfprune.pruning.plan", "imports hfprune.pruning.plan:"),
        ("hfprune.recipe.reading", "from hfprune.pruning import plan", "imports hfprune.pruning.p"),
        ("hfprune.recipe.reading", "from .. import pruning", "imports hfprune.pruning.__init__:"),
        ("hfprune.recipe.reading", "from ..pruning.plan import P", "imports hfprune.pruning.plan:"),
        ("hfprune.recipe.reading", "def f():\n    from hfprune.pruning.plan import P", "line 2"),
        (
            "hfprune.recipe.reading",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import hfprune.pruning.plan",
            "line 3: imports hfprune.pruning.plan",
        ),
        (
            "hfprune.recipe.reading",
            "import importlib\nimportlib.import_module('hfprune.pruning.plan')",
            "line 2",
        ),
        (
            "hfprune.recipe.reading",
            "import_module('..pruning.plan', __package__)",
            "imports hfprune.pruning.plan",
        ),
        # Two packages on one floor do not know each other.
        ("hfprune.recipe.reading", "from hfprune.families import R", "not from floor 1"),
        ("hfprune.training.trainer", "from hfprune import T", "imports hfprune.__init__: floor 5"),
        ("hfprune.training.trainer", "import hfprune", "imports hfprune.__init__: floor 5"),
        ("hfprune.families.bert", "from .gpt import A", "a family imports only base, blocks"),
        ("hfprune.families.bert", "from hfprune.families import R", "a family imports only base"),
        ("hfprune.families.bert", "import hfprune.families.registry", "a family imports only base"),
        ("hfprune.families.base", "from ..pruning.gates import G", "not from floor 3"),
        ("hfprune.pruning.plan", "from ...scripts import prune", "not part of the package"),
        ("hfprune.pruning.plan", "import scripts.prune", "not part of the package"),
        ("hfprune.pruning.plan", "import hfprune.core.novelty", "novelty, which does not exist"),
        ("hfprune.novelty.x", "", "hfprune.novelty.x has no floor: add 'novelty' to FLOORS"),
    ],
)
def test_a_violation_is_found(importer: str, source: str, message: str) -> None:
    (violation,) = floor_violations({**BASE_HOUSE, importer: source})
    assert importer in violation
    assert message in violation


@pytest.mark.parametrize(
    ("importer", "source", "names"),
    [
        ("hfprune.core.errors", "from .files import F", "hfprune.core.errors, hfprune.core.files"),
        ("hfprune.core.errors", "def f():\n    import hfprune.core.files", "hfprune.core.errors, "),
        ("hfprune.families.base", "from hfprune.families.bert import B", "families.base, hfprune."),
        ("hfprune.recipe.reading", "import hfprune.recipe", "recipe.__init__, hfprune.recipe.read"),
    ],
)
def test_a_circle_is_found(importer: str, source: str, names: str) -> None:
    (circle,) = circles({**BASE_HOUSE, importer: source})
    assert names in circle


# --- the picture in CONTRIBUTING --------------------------------------------------------------


def picture(modules: Mapping[str, str]) -> str:
    """The floors from top to bottom: each package, what it is (its docstring), what it imports."""
    known = frozenset(modules)
    imports: dict[str, set[str]] = {package: set() for package in FLOORS}
    for module, source in modules.items():
        mine = package_of(module)
        others = {package_of(name) for _, name in imported_modules(source, module, known)}
        imports[mine] |= others - {mine}
    lines = []
    for package in sorted(FLOORS, key=lambda name: (-FLOORS[name], name)):
        if package.startswith("__"):
            continue
        says = ast.get_docstring(ast.parse(modules[f"hfprune.{package}.__init__"])) or ""
        lines.append(
            f"{FLOORS[package]}  {package + '/':<10} {says.splitlines()[0].replace('`', '')}"
        )
        lower = [name for name in FLOORS if FLOORS[name] < FLOORS[package]]
        lacks = [name for name in lower if name not in imports[package]]
        used = ", ".join(name for name in lower if name in imports[package])
        if len(lower) > 4 and len(lacks) < 3:
            used = f"all below but {' and '.join(lacks)}" if lacks else "all below"
        if used:
            lines.append(f"{'':14}imports {used}")
    return "\n".join(lines)


PICTURE = re.compile(r"(?<=## How the code is laid out\n)(.*?```text\n)(.*?)(?=\n```)", re.DOTALL)


def test_the_picture_in_contributing_is_the_code() -> None:
    drawn = PICTURE.search((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert drawn is not None
    expected = picture(library_modules())
    assert drawn[2] == expected, f"run python {Path(__file__).relative_to(ROOT)} to draw it anew"


@pytest.mark.parametrize("package", [name for name in FLOORS if not name.startswith("__")])
def test_every_package_has_a_readme_that_is_right(package: str) -> None:
    folder = PACKAGE / package
    text = (folder / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == f"# {package}"
    assert f"Floor {FLOORS[package]}." in text
    assert 6 <= len(lines) <= 24
    assert "**Begin**" in text
    assert "**Extend**" in text
    # Paths in backticks are of this folder, or of the repository where they begin so.
    for name in re.findall(r"`([\w./]+(?:\.py|\.md|/))`", text):
        base = ROOT if name.split("/")[0] in {"docs", "hfprune", "scripts", "tests"} else folder
        assert (base / name).exists(), f"{package}/README.md names {name}, which is not there"


def test_every_path_in_contributing_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./-]+(?:\.py|\.md|\.yml|/))`", text):
        if "/" in name and name not in {"demo-assets/", "site/"}:
            assert any((base / name).exists() for base in (ROOT, PACKAGE)), name


# --- sizes ------------------------------------------------------------------------------------


def sizes(modules: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Lines of the files that are too long, methods of the classes that are too large."""
    files, classes = {}, {}
    for module, source in modules.items():
        if (lines := len(source.splitlines())) > LONGEST_FILE:
            files[module] = lines
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                methods = sum(
                    isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body
                )
                if methods > MOST_METHODS:
                    classes[f"{module}.{node.name}"] = methods
    return files, classes


def test_files_and_classes_fit_a_reader() -> None:
    for found, allowed, what in zip(
        sizes(library_modules()), (LONG_FILES, LARGE_CLASSES), ("lines", "methods"), strict=True
    ):
        for name, size in found.items():
            limit = LONGEST_FILE if what == "lines" else MOST_METHODS
            assert size <= allowed.get(name, 0), (
                f"{name} has {size} {what}, more than {allowed.get(name, limit)}: it is two things"
            )
        done = sorted(set(allowed) - set(found))
        assert not done, f"no longer too large, take them off the list: {', '.join(done)}"


def test_what_is_too_large_is_seen() -> None:
    methods = "".join(f"    def m{number}(self): ...\n" for number in range(MOST_METHODS + 1))
    modules = {"hfprune.a": "x = 1\n" * (LONGEST_FILE + 1), "hfprune.b": f"class B:\n{methods}"}
    assert sizes(modules) == ({"hfprune.a": 401}, {"hfprune.b.B": 26})
    assert sizes({"hfprune.a": "x = 1\n" * LONGEST_FILE}) == ({}, {})


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


if __name__ == "__main__":
    page = ROOT / "CONTRIBUTING.md"
    text = page.read_text(encoding="utf-8")
    drawing = picture(library_modules())
    page.write_text(PICTURE.sub(lambda found: found[1] + drawing, text), encoding="utf-8")
