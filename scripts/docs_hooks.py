"""What `make docs` does to pages besides MkDocs' own work (``hooks`` in mkdocs.yml).

- CONTRIBUTING.md and CHANGELOG.md of the root become pages.
- Pictures are put into their page, so that they follow its light or dark colours.
- Roles that docstrings use for names (``:class:``) leave only the name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
PICTURE = re.compile(r'<img alt="([^"]*)" src="(?:\.\./)*pictures/([a-z]+)\.svg"\s*/?>')
ROLE = re.compile(r":(?:class|func|meth|mod|attr):(?=<code>)~?")


def on_files(files: Any, config: Any) -> Any:
    for page, source in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        # Seen from the root, the pages lie in docs/.
        content = re.sub(r"\]\(docs/", "](", text)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    for name, source in FROM_ROOT.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return markdown


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    return ROLE.sub("", PICTURE.sub(_inlined, html)).replace("::</p>", ":</p>")


def _inlined(found: re.Match[str]) -> str:
    content = (ROOT / "docs" / "pictures" / f"{found[2]}.svg").read_text(encoding="utf-8")
    # The page says which colours there are.
    drawn = re.sub(r"<style>.*?</style>\n", "", content, flags=re.DOTALL)
    return f'<span class="hp-picture">{drawn}</span>'
