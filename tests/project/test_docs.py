"""The documentation says what is true: links, commands, code, recipes, messages, pictures."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml

import hfprune
from hfprune.cli import app
from hfprune.pruning.surgery import HINT
from hfprune.recipe.reading import load_recipe
from hfprune.recipe.sections.whole import Recipe
from scripts import make_pictures

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
# Pages that scripts/docs_hooks.py makes of files of the root.
MADE = {"contributing.md": ROOT / "CONTRIBUTING.md", "changelog.md": ROOT / "CHANGELOG.md"}
# Quoted in the troubleshooting, but said by PyTorch and transformers.
FOREIGN = {
    "size mismatch for …",
    f'Specified attn_implementation="{HINT}" is not supported …',
}


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, *languages: str) -> list[str]:
    """The contents of fenced blocks in these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", read(path), flags=re.DOTALL | re.MULTILINE)
    return [content for language, content in found if language in languages]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", read(path), flags=re.DOTALL | re.MULTILINE)


# -- pages and links -------------------------------------------------------------------------------


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and code hosts make them."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", title).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


@named(TEXTS)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    for link in links:
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if target.parent == DOCS and target.name in MADE:
            target = MADE[target.name]
        assert target.is_file(), f"{path.name} links to {link}, which is not there"
        if anchor:
            assert anchor in headings(target), f"{path.name}: {link} names no heading"


def nav_pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for below in entry.values() if isinstance(entry, dict) else entry:
        if not isinstance(entry, str):
            yield from nav_pages(below)


def test_every_page_is_in_the_navigation_once() -> None:
    shown = sorted(nav_pages(CONFIG["nav"]))
    included = set(CONFIG["exclude_docs"].split())
    there = {page.name for page in PAGES} - included | set(MADE)
    assert shown == sorted(there)
    for name in included:
        assert any(f'--8<-- "{name}"' in read(page) for page in PAGES), name


def test_the_site_loads_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    for name in (*CONFIG["extra_css"], *CONFIG["extra"]["polyfills"]):
        assert (DOCS / name).is_file(), name
        assert "http" not in read(DOCS / name)


# -- code ------------------------------------------------------------------------------------------


@named([path for path in TEXTS if blocks(path, "python")])
def test_python_compiles_and_knows_hfprune(path: Path) -> None:
    for code in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module == "hfprune":
                for alias in node.names:
                    assert alias.name in hfprune.__all__, f"{path.name}: {alias.name}"
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "hfprune"
            ):
                assert node.attr in hfprune.__all__, f"{path.name}: hfprune.{node.attr}"


def commands(path: Path) -> list[list[str]]:
    """What follows the prompt in blocks of the console, split as a shell would."""
    lines = "\n".join(blocks(path, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def check_hfprune(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        assert words[0] in command.commands, f"there is no `hfprune {words[0]}`"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{command.name} has no {word}"


def check_script(words: list[str]) -> None:
    """Options that argparse knows by name stand in the script itself."""
    script = ROOT / words[0]
    assert script.is_file(), words[0]
    for word in words[1:]:
        if word.startswith("--"):
            assert f'"{word}"' in read(script), f"{words[0]} has no {word}"


@named([path for path in TEXTS if commands(path)])
def test_commands_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", read(ROOT / "Makefile"), flags=re.MULTILINE)
    for words in commands(path):
        if words[0] == "hfprune":
            check_hfprune(words[1:])
        elif words[0] == "make":
            assert set(words[1:]) <= {*targets, *(w for w in words if "=" in w)}, words
        scripts = [
            place for place, word in enumerate(words) if re.match(r"(scripts|examples)/", word)
        ]
        for place in scripts:
            check_script(words[place:])


@named(TEXTS)
def test_commands_named_in_prose_exist(path: Path) -> None:
    text = re.sub(r"^#.*", "", prose(path), flags=re.MULTILINE)
    for said in re.findall(r"`hfprune ([a-z][^`]*)`", text):
        words = shlex.split(re.sub(r"…|\|\w+", "", said))  # of `new|check` the first
        check_hfprune(words)


# -- recipes ---------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "model": {"name_or_path": "a-model"},
    "data": {"train_file": "train.csv"},
    "pruning": {"sparsity": 0.5},
    "output_dir": "runs/x",
}


@named([path for path in TEXTS if blocks(path, "yaml")])
def test_recipes_load(path: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(path, "yaml")):
        values = yaml.safe_load(text)
        assert set(values) <= set(Recipe.model_fields), f"{path.name}: {text}"
        if "output_dir" not in values:  # some sections of one
            text = yaml.safe_dump({**BASE, **values})
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        load_recipe(file)


def test_the_recipe_of_the_quickstart_is_what_recipe_new_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny import write_reviews
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    write_reviews(tmp_path / "train.csv", 1000)
    shown = next(text for text in blocks(DOCS / "quickstart.md", "yaml") if "train.csv" in text)
    written = tmp_path / "reviews.yaml"
    model = yaml.safe_load(shown)["model"]["name_or_path"]
    words = ["recipe", "new", str(written), "--model", model, "--train", "train.csv"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert yaml.safe_load(shown) == yaml.safe_load(read(written))


# -- messages --------------------------------------------------------------------------------------


def templates() -> list[str]:
    """Every text in the library; a null character stands for what is put into it."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) for part in node.values)
        return "\0"

    found = set()
    for file in (ROOT / "hfprune").rglob("*.py"):
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                found.add(text(node))
    return sorted(found)


def says(template: str, quoted: str) -> bool:
    """Whether a text has the quoted pieces, in this order, with something between them."""
    place = 0
    for piece in quoted.split("…"):
        place = template.find(piece.strip(), place)
        if place < 0:
            return False
        place += len(piece.strip())
    return True


def quoted_messages() -> list[str]:
    titles = re.findall(r"^### `+(.+?)`+$", read(DOCS / "troubleshooting.md"), flags=re.MULTILINE)
    return [title for title in titles if title not in FOREIGN]


def test_messages_of_the_troubleshooting_are_the_librarys() -> None:
    all_texts = templates()
    messages = quoted_messages()
    assert len(messages) > 40
    missing = [quoted for quoted in messages if not any(says(text, quoted) for text in all_texts)]
    assert not missing, "\n".join(missing)


def test_a_message_that_nobody_says_is_found() -> None:
    assert says("the loss is \0 at step \0", "the loss is … at step …")
    assert not says("the loss is \0", "the loss is … at step …")
    assert not any(says(text, "no such … message, at all") for text in templates())


# -- pictures --------------------------------------------------------------------------------------


def test_pictures_are_what_the_script_draws() -> None:
    assert make_pictures.main(["--check"]) == 0
    assert {path.stem for path in (DOCS / "pictures").iterdir()} == set(make_pictures.PICTURES)


@pytest.mark.parametrize("name", sorted(make_pictures.PICTURES))
def test_pictures_are_whole_and_shown(name: str) -> None:
    tree = ElementTree.fromstring(read(DOCS / "pictures" / f"{name}.svg"))  # noqa: S314 (our own)
    title = tree.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text
    assert any(f"](pictures/{name}.svg)" in read(page) for page in PAGES)


def test_the_readme_is_short_and_begins_with_what_a_newcomer_asks() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 125, "about 120: move what is more to docs/"
    asked = ["Does it help me?", "Two commands", "Install", "In Python", "One recipe", "More"]
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == asked
    begin, helps, commands_part, install, *_ = text.split("\n## ")
    assert "![" in begin
    rows = [line for line in helps.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5, "one table of five rows"
    assert helps.split("\n\n")[1].count("**") == 6, "three numbers"
    assert len(re.findall(r"^\$ hfprune", commands_part, flags=re.MULTILINE)) == 2
    assert "no package index has it yet" in install
    assert text.count("```yaml") == text.count("```python") == 1


def test_the_site_has_the_colours_of_the_pictures() -> None:
    style = read(DOCS / "stylesheets" / "extra.css")
    for scheme, colours in (("default", make_pictures.LIGHT), ("slate", make_pictures.DARK)):
        rule = style.split(f'[data-md-color-scheme="{scheme}"]')[1].split("}")[0]
        assert dict(re.findall(r"--hp-(\w+): (#\w+)", rule)) == colours


# -- the site --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="`make docs` installs MkDocs"
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert not found.stderr.strip()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*(?:src|href)="([^"]*)"', read(page))
        assert not [url for url in loaded if re.match(r"(https?:)?//", url)], page.name
