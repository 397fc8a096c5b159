"""Files of a model on the Hub, brought into the cache within a time that can be told.

transformers fetches what it loads itself, and waits as long as bytes come, be it one a second. So
the files are fetched first, each within a limit that goes with its size; transformers then finds
them in the cache. What goes wrong but for the time is left for transformers to say.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError
from hfprune.core.waiting import SECONDS_TO_ANSWER, seconds_for, within
from hfprune.models.folders import looks_like_path

logger = logging.getLogger(__name__)

# Of a size that the Hub does not tell.
UNKNOWN_SIZE: Final = 2**31
LARGE: Final = 2**23
_SMALL: Final = re.compile(
    # Of sentence-transformers too, whose modules say how a model is read.
    r"(\d+_\w+/)?config\.json|modules\.json|config_sentence_transformers\.json"
    r"|sentence_bert_config\.json|tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)"
    r"|merges\.txt|sp(iece|m)\.model|sentencepiece\.bpe\.model|preprocessor_config\.json"
)
_WEIGHTS: Final = (
    re.compile(r"model\.safetensors"),
    re.compile(r"model(-\d{5}-of-\d{5}\.safetensors|\.safetensors\.index\.json)"),
    re.compile(r"pytorch_model\.bin"),
    re.compile(r"pytorch_model(-\d{5}-of-\d{5}\.bin|\.bin\.index\.json)"),
)


def fetch(
    name: str,
    revision: str | None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    weights: bool = True,
    seconds: float = SECONDS_TO_ANSWER,
) -> None:
    """Bring the files of a model that are not in the cache yet into it.

    Args:
        name: of a repository; for a folder, and offline, nothing is done.
        weights: not only what configs and tokenizers are read from.
        seconds: what each request may take besides a second for 50 kB.

    Raises:
        CheckpointError: the Hub did not answer, or sent a file too slowly.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or Path(name).is_dir():
        return
    api = HfApi(token=token, library_name="hfprune")
    what = f"what {name} holds"
    limit = seconds

    def tell(waited: float) -> None:
        logger.warning("waiting for the Hub: %s, %.0f s of at most %.0f", what, waited, limit)

    try:
        info = within(
            limit, lambda: api.model_info(name, revision=revision, files_metadata=True), tell=tell
        )
        for file, size in wanted(info.siblings or []):
            if not weights and _SMALL.fullmatch(file) is None:
                continue
            place = try_to_load_from_cache(
                name, file, cache_dir=cache_dir and str(cache_dir), revision=info.sha
            )
            if isinstance(place, str):
                continue
            known = size != UNKNOWN_SIZE
            what = f"{file} of {name}" + (f" ({size / 1e6:.0f} MB)" if known else "")
            limit = seconds_for(size, seconds)
            if known and size >= LARGE:
                logger.warning("fetching %s", what)

            def download(file: str = file) -> str:
                return hf_hub_download(
                    name,
                    file,
                    revision=revision,
                    token=token,
                    cache_dir=cache_dir,
                )

            within(limit, download, tell=tell)
    except TimeoutError as error:
        if "not done within" not in str(error):  # of a socket: transformers tries again
            return
        raise CheckpointError(
            f"the Hub did not send {what} within {limit:.0f} s: check the network, or download "
            f"the model once (`hf download {name}`) and give its folder"
        ) from error
    except Exception as error:  # many classes; transformers meets the same and it is explained
        logger.debug("%s is left to transformers: %s", name, error)


def small_files(name: str, revision: str | None = None) -> Path:
    """Where the small files of a model lie: a folder itself, of a name on the Hub its cache.

    Args:
        revision: of the latter.

    Returns:
        Of a name whose ``config.json`` nobody has fetched yet, a folder that is not there.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir() or looks_like_path(name):
        return Path(name)
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else Path(name)


def wanted(siblings: list[Any]) -> list[tuple[str, int]]:
    """Of a repository's files those that a model is loaded from, with their sizes in bytes."""
    sizes = {one.rfilename: one.size for one in siblings}
    names = [name for name in sizes if _SMALL.fullmatch(name)]
    for pattern in _WEIGHTS:
        if found := [name for name in sizes if pattern.fullmatch(name)]:
            names += found
            break
    return [(name, UNKNOWN_SIZE if sizes[name] is None else int(sizes[name])) for name in names]
