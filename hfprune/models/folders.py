"""Where in a folder the model lies."""

from __future__ import annotations

import json
from pathlib import Path

from hfprune.core.errors import DataError


def model_folder(name: str) -> str:
    """Where in a folder transformers finds the model.

    A folder of sentence-transformers may hold it below, as the first module of ``modules.json``.
    Anything else (a plain folder, a name on the Hub) comes back as it is.
    """
    listed = Path(name) / "modules.json"
    if (Path(name) / "config.json").is_file() or not listed.is_file():
        return name
    try:
        first = json.loads(listed.read_text(encoding="utf-8"))[0]["path"]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{listed} does not name the modules of a sentence encoder: {error!r}"
        ) from error
    return str(Path(name) / str(first))
