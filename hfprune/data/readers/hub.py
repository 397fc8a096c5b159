"""Data sets by name, through the ``datasets`` library, within a time that can be told.

The library waits as long as bytes come, be it one a second. So the Hub is asked for the sizes of
the files first, and all of them may take as long as that many bytes at the slowest.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hfprune.core.errors import DataError
from hfprune.core.waiting import SECONDS_TO_ANSWER, seconds_for, within

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# Of a data set whose sizes the Hub does not tell: four gigabytes.
UNKNOWN_SIZE: Final = 2**32


def load_named(
    name: str,
    config_name: str | None,
    split: str,
    revision: str | None,
    *,
    seconds: float = SECONDS_TO_ANSWER,
) -> Dataset:
    """What ``datasets.load_dataset`` gives, or an error if that takes too long.

    Args:
        name: of a data set on the Hub, or a folder; for a folder, and offline, nothing limits it.
        config_name, split, revision: as ``load_dataset`` takes them.
        seconds: what the Hub may take to answer, and on top of a second for 50 kB of its files.

    Raises:
        DataError: the Hub did not answer, or sent too slowly.
        Exception: what ``load_dataset`` raises, of many classes.
    """
    import datasets
    from huggingface_hub import HfApi, constants

    def load() -> Dataset:
        found: Dataset = datasets.load_dataset(name, config_name, split=split, revision=revision)
        return found

    if constants.HF_HUB_OFFLINE or Path(name).exists():
        return load()
    what, limit = f"what {name} holds", seconds

    def tell(waited: float) -> None:
        logger.warning("waiting for the Hub: %s, %.0f s of at most %.0f", what, waited, limit)

    try:
        try:
            info = within(
                limit,
                lambda: HfApi(library_name="hfprune").dataset_info(
                    name, revision=revision, files_metadata=True
                ),
                tell=tell,
            )
            sizes = [one.size for one in info.siblings or []]
            size = UNKNOWN_SIZE if None in sizes else sum(map(int, filter(None, sizes)))
        except TimeoutError:
            raise
        except Exception as error:  # many classes; the library meets the same and says it better
            logger.debug("the sizes of %s are not known: %s", name, error)
            size = UNKNOWN_SIZE
        what, limit = f"the files of {name}", seconds_for(size, seconds)
        return within(limit, load, tell=tell)
    except TimeoutError as error:
        if "not done within" not in str(error):  # of a socket
            raise
        raise DataError(
            f"the Hub did not send {what} within {limit:.0f} s: check the network, or download the "
            f"data once (`hf download --repo-type dataset {name}`) and give its files "
            "(data.train_file); with HF_HUB_OFFLINE=1 what is in the cache is used unasked"
        ) from error
