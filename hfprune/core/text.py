"""Text from outside (labels, paths, what servers say), made safe to show on a terminal or a page.

A label or the name of a file may hold an escape sequence that recolours or clears a terminal, sets
its title or hides what stands before it. Such characters are shown by their numbers instead.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# C0 but for tab and line feed, DEL, C1 (U+009B alone begins a sequence), line and paragraph
# separators, what turns the direction of writing, and halves of characters, which nothing prints.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with control characters as escapes: ``\x1b``, ``\u202e``. Line breaks stay.

    >>> visible("red: \x1b[31m")
    'red: \\x1b[31m'
    """
    return _UNSEEN.sub(_escape, text)


def one_line(text: str, most: int = 300) -> str:
    """As :func:`visible`, on one line of at most ``most`` characters."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 3]}..."


def visible_json(text: str) -> str:
    """JSON text that means the same and holds no such characters: ``\\u009b``."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(text: object, style: str = "") -> Text:
    """What rich shows as it stands: no markup in it, and no control characters."""
    from rich.text import Text

    return Text(visible(str(text)), style=style)


def markup(text: object) -> str:
    """As :func:`cell`, as the text that rich makes it of: for titles and the heads of columns."""
    from rich.markup import escape

    return escape(visible(str(text)))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"
