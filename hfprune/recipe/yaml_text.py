"""YAML without objects, anchors and tags, with the plain scalars of YAML 1.2.

``5e-5`` is a number, ``no`` is text. Nothing is constructed from what a file names.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any, Final

import yaml

from hfprune.core.errors import RecipeError

_MAX_BYTES: Final = 1 << 18
_MAX_DEPTH: Final = 20
_TAG: Final = "tag:yaml.org,2002:"
PLAIN_SCALARS: Final = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes only (nothing is constructed), without anchors, aliases and tags.

    Anchors are what small files that expand to gigabytes are made of, and tags name Python types;
    a recipe needs neither.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - filled below with YAML 1.2, not PyYAML's 1.1
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(
                None,
                None,
                "anchors and aliases (& and *) are not allowed: write the value out",
                event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"the tag {event.tag} is not allowed: remove it", event.start_mark
            )
        if self.depth >= _MAX_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nested deeper than {_MAX_DEPTH} levels", event.start_mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or YAML 1.2 would read as something else than text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Unicode's own line breaks survive only as escapes, which need double quotes.
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


class NotYAML(Exception):
    def __init__(self, text: str, line: int) -> None:
        super().__init__(text)
        self.line = line


def compose(text: str) -> yaml.Node | None:
    """The node tree of one YAML document; None where it holds nothing."""
    if re.search(r"[\ud800-\udfff]", text):
        raise NotYAML("it holds half of a surrogate pair, which is no text", 0)
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        raise NotYAML(", ".join(parts), mark.line + 1 if mark else 0) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYAML(f"the character U+{error.character:04X} is not allowed", line) from error
    except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
        # PyYAML lets some of Python's own errors through, as for the escape "\\UFFFFFFFF".
        raise NotYAML(f"it cannot be read ({error})", 0) from error
    return node


def scalar(node: yaml.Node) -> Any:
    """A plain scalar as Python's null, bool, int, float or str, after YAML 1.2."""
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    # Python refuses to read integers of thousands of digits; as text they are refused below.
    if kind == "int" and len(text) <= 100:
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        return int(text, base)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


def read_file(path: str | os.PathLike[str]) -> str:
    shown = os.fspath(path)
    if "\0" in shown:
        raise RecipeError(f"{shown!r}: not a usable path: it holds a null character")
    file = Path(path)
    try:
        if file.is_dir():
            raise RecipeError(f"{shown}: a folder, not a recipe: give the path of a YAML file")
        if not file.exists():
            near: list[str] = []
            if file.parent.is_dir():
                recipes = [entry.name for entry in file.parent.glob("*.y*ml")]
                near = difflib.get_close_matches(file.name, recipes, n=1)
            hint = f" Did you mean {file.with_name(near[0])}?" if near else ""
            raise RecipeError(f"{shown}: no such recipe file.{hint}")
        if not file.is_file():
            raise RecipeError(f"{shown}: not a regular file")
        with file.open("rb") as handle:
            data = handle.read(_MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{shown}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise RecipeError(f"{shown}: larger than {_MAX_BYTES} bytes; is it a recipe?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{shown}, line {line}: not UTF-8 text (byte 0x{data[error.start]:02x} at position "
            f"{error.start}): save the file as UTF-8"
        ) from error


Dumper.add_representer(str, _represent_text)


for _kind, _pattern, _first in PLAIN_SCALARS:
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(
            _TAG + _kind,
            re.compile(rf"(?:{_pattern})\Z"),
            ["" if letter == "\0" else letter for letter in _first],
        )
