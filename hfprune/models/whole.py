"""Models that are whole: every parameter and buffer holds numbers.

While it builds a model, transformers 4 makes *all* modules of the process put their parameters on
the meta device, where they have a shape and no numbers. A model that another thread builds then
comes out so, without an error; and where two threads of transformers cross, the process stays like
that for good. Nothing that hfprune loads is given away empty.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final, TypeVar

from torch import Tensor, nn

from hfprune.core.errors import CheckpointError

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=nn.Module)

# Held while hfprune loads, so that its own threads never disturb each other.
LOADING: Final = threading.RLock()
ATTEMPTS: Final = 10
FIRST_PAUSE: Final = 0.02
MOST_PAUSE: Final = 1.0
BEFORE_MENDING: Final = 2
# As torch has it: hfprune is imported before models are loaded in threads.
_REGISTER: Final = nn.Module.register_parameter


def empty_tensors(model: nn.Module) -> list[str]:
    """The names of parameters and buffers that hold nothing (they are on the meta device)."""
    named = chain(model.named_parameters(), model.named_buffers())
    return sorted(name for name, value in named if value.is_meta)


def put_(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make tensors the parameters and buffers of their names. In place.

    Other than assignment it does not ask the class of modules, which another thread may have
    changed.

    Args:
        tensors: of the dtype that they shall have; names as in ``state_dict``.
    """
    for name, value in tensors.items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        old = module._parameters.get(attribute)
        if old is None:
            module._buffers[attribute] = value
        else:
            module._parameters[attribute] = nn.Parameter(value, requires_grad=old.requires_grad)


def load_whole(load: Callable[[], ModelT], where: str) -> ModelT:
    """What ``load`` gives, once it is whole; tried again while another thread disturbs it.

    Args:
        load: makes a model from files, each time anew.
        where: what is loaded, for the error.

    Raises:
        CheckpointError: it never was whole.
    """
    empty: list[str] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(FIRST_PAUSE * 2**attempt, MOST_PAUSE))
        with LOADING:
            if attempt >= BEFORE_MENDING:
                _mend()
            try:
                model = load()
            except NotImplementedError as error:
                if "meta tensor" not in str(error):
                    raise
                empty = ["of a layer"]
                continue
        empty = empty_tensors(model)
        if not empty:
            return model
    raise CheckpointError(
        f"{where} was not loaded: {len(empty)} tensors ({empty[0]}, ...) hold no numbers, as "
        "another thread was loading a model with transformers all the while; load one at a time, "
        "with a lock around both"
    )


def _mend() -> None:
    """Take back what a thread of transformers left in the class of all modules.

    Should it still be at it, its parameters hold numbers from here on, which does no harm: they
    are replaced by those of its files.
    """
    if nn.Module.register_parameter is not _REGISTER:
        logger.warning("modules were left to make empty parameters by another thread; mended")
        nn.Module.register_parameter = _REGISTER  # type: ignore[method-assign]
