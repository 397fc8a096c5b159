"""Write the table of all errors into docs/troubleshooting.md, from the source.

Classes, causes and ways out come from hfprune/core/errors.py, messages from where they are raised.
With --check: only compare, and exit 1 if the page is stale.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
BEGIN = "<!-- made by scripts/make_errors.py: begin -->"
END = "<!-- made by scripts/make_errors.py: end -->"
GAP = "\0"
MOST = 150


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is stale")
    check = parser.parse_args(arguments).check

    sys.path.insert(0, str(ROOT))  # the checkout that this script is in, installed or not
    from scripts.generated import keep

    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = "\n".join([BEGIN, "", *table(), "", END])
    remark = f"does not list the errors that the library raises: run {sys.argv[0]}"
    return keep({PAGE: before + made + after}, check=check, remark=remark)


def table() -> Iterator[str]:
    """The lines of the table: classes in the order of their file, messages by the alphabet."""
    import hfprune.core.errors as errors

    found = messages()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        mine = sorted(found.pop(kind.__name__, ()), key=str.lower)
        if not mine:
            continue
        yield f"### {kind.__name__}"
        yield ""
        yield f"{kind.cause} {kind.way_out}"
        yield ""
        yield from ("| message | way out |", "|---|---|")
        for message in mine:
            said, remedy = parts(message)
            yield f"| {cell(said)} | {cell(remedy) or 'as above'} |"
        yield ""
    if found:
        raise LookupError(f"raised, but not in hfprune/core/errors.py: {sorted(found)}")


def messages() -> dict[str, set[str]]:
    """Class to the texts that it is raised with; a gap stands for what differs."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "hfprune").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = ast.unparse(node.func)
            if not re.fullmatch(r"[A-Z]\w+Error", name) or hasattr(builtins, name):
                continue
            text = re.sub(f"{GAP}+", GAP, literal(node.args[0]))
            if len(re.findall(r"\w{2,}", text)) >= 3:
                found.setdefault(name, set()).add(text)
    return found


def literal(node: ast.AST) -> str:
    """The text of an expression, with gaps."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return literal(node.left) + literal(node.right)
    return GAP


def parts(message: str) -> tuple[str, str]:
    """What came, and what to change: errors of hfprune say it last, after a colon or semicolon."""
    said, mark, remedy = message.rpartition("; ")
    if not mark:
        said, mark, remedy = message.rpartition(": ")
    if not mark or len(re.findall(r"\w{2,}", remedy)) < 2 or len(said) < 12:
        return message, ""
    return said, remedy


def cell(text: str) -> str:
    """Text for a cell of Markdown, cut at a word; commands in it stand in plain quotes."""
    text = " ".join(text.replace(GAP, "…").replace("`", "'").split())
    text = text if len(text) <= MOST else text[:MOST].rpartition(" ")[0] + " …"
    return re.sub(r"([\\*\[\]<>|_])", r"\\\1", text)


if __name__ == "__main__":
    sys.exit(main())
