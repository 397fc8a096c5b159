"""The teacher's outputs on the training rows, computed once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hfprune.core import shares
from hfprune.core.errors import TrainingError
from hfprune.core.exchange import from_everyone
from hfprune.core.files import keep_in_cache, trim_cache
from hfprune.core.kinds import IMAGE_INPUTS, TEXT_INPUTS, image_tokens, outputs_of
from hfprune.data.token_rows import TokenRows
from hfprune.training.distillation import shards
from hfprune.training.distillation.reading import row_key

# Logits of up to so many bytes stay float32, which costs nothing then.
EXACT_BYTES = 2**28
# What earlier runs left is deleted beyond so many bytes, the longest unused first: every teacher
# and every set of rows has a file of its own.
MOST_KEPT = 4e9
# Tokens or rows that are put into another precision at a time.
_AT_ONCE = 4096


class TeacherCache:
    """A teacher's outputs on a data set, computed once, looked up by row.

    The teacher never changes and sees every row once an epoch, so for a few epochs its forward
    passes cost more than the memory. Hidden states are kept in float16 (their rounding is far below
    what a student gets near to; in bfloat16 where one is beyond its range), real tokens only;
    logits in float32, and like hidden states where they are many. An image has as many tokens as
    the model makes of it.

    Several processes compute a share each and have all of it afterwards; every one of them must
    make its cache. With a folder, logits that an interrupted run computed are taken up again.

    Args:
        teacher: in eval mode.
        dataset: rows with ``input_ids``, or images.
        collate: rows to a batch, padded on either side.
        hidden: of how many rows, from the first, to keep hidden states too (of all layers but the
            embeddings); rows after them have logits only.
        batch_size: rows a forward pass.
        folder: where logits are kept from one run to the next, by the teacher's weights and all
            that it reads of the rows; ``None``: nowhere.
        progress: called with this process's rows done and in all.
        room: float16, flat, where hidden states are put if they fit; ``None``: in memory.
    """

    def __init__(
        self,
        teacher: Any,
        dataset: Any,
        collate: Callable[[list[Any]], Any],
        *,
        hidden: int,
        batch_size: int = 64,
        folder: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
        room: Tensor | None = None,
    ) -> None:
        rows = self._rows = len(dataset)
        ids = TokenRows(dataset) if "input_ids" in dataset.column_names else None
        lengths = _lengths(rows, ids, teacher.config)
        self._starts = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        self._hidden_rows = hidden
        self._hidden: Tensor | None = None
        self._room = room
        self._of_tokens = False
        # Images are told apart by nothing that is cheap to read; logits of tokens are not kept.
        place = None
        if folder is not None and ids is not None:
            place = folder / f"{_digest(teacher, dataset, ids)}.safetensors"
        self._logits = None if place is None else _kept_logits(place, rows, outputs_of(teacher))
        known = all(from_everyone(self._logits is not None))
        if not known:
            self._logits = None
        todo = [row for row in range(rows) if row < hidden or not known]
        todo.sort(key=lambda row: (row >= hidden, -int(lengths[row])))
        self._left = _pads_left(collate, dataset, ids)
        batches = _batches(todo, hidden, batch_size)
        parts = shards.shares(len(batches))
        kept = shards.Parts(None if known else place)
        labels, done = outputs_of(teacher), 0
        own = shares.mine(len(parts))
        mine = sum(len(batches[number]) for part in own for number in parts[part])
        for part in own:
            chosen = [row for number in parts[part] for row in batches[number]]
            # Hidden states are not kept on disk: those rows are asked for again.
            resumes = chosen[0] >= hidden
            found = kept.load(part, chosen, labels) if resumes else None
            if found is not None:
                self._store_logits(chosen, found, known)
                done += len(chosen)
            else:
                for number in parts[part]:
                    self._ask(teacher, dataset, collate, batches[number], known)
                    done += len(batches[number])
                    if progress is not None:
                        progress(done, mine)
                if resumes and not self._of_tokens and self._logits is not None:
                    kept.keep(part, chosen, self._logits[chosen])
        self._join(known)
        fresh = not known and not self._of_tokens
        if not fresh or place is None or self._logits is None or not shares.writes():
            return
        if keep_in_cache(place, save({"logits": self._logits})):
            kept.drop(range(len(parts)))
            trim_cache(place.parent, MOST_KEPT)

    def _ask(
        self, teacher: Any, dataset: Any, collate: Any, chosen: list[int], known: bool
    ) -> None:
        """The teacher's outputs on some rows, all of which have hidden states kept, or none."""
        wants = chosen[0] < self._hidden_rows
        device = next(teacher.parameters()).device
        batch = _inputs(collate([dataset[row] for row in chosen]), device)
        with torch.no_grad():
            found = teacher(**batch, output_hidden_states=wants)
        self._store_logits(chosen, found.logits.float().cpu(), known)
        if wants:
            # (batch, length, layers, hidden)
            states = torch.stack(found.hidden_states[1:], 2).cpu()
            if self._hidden is None:
                self._hidden = self._place_for(states)
            self._hidden = _wide_enough(self._hidden, states)
            self._put(self._hidden, chosen, states.to(self._hidden.dtype))

    def _place_for(self, states: Tensor) -> Tensor:
        """Zeros for the hidden states of all real tokens, by those of some."""
        shape = (int(self._starts[self._hidden_rows]), *states.shape[2:])
        if self._room is not None and self._room.numel() >= math.prod(shape):
            return self._room[: math.prod(shape)].view(shape)
        return torch.zeros(shape, dtype=torch.float16)

    def _store_logits(self, chosen: list[int], logits: Tensor, known: bool) -> None:
        if known:
            return
        if self._logits is None:
            self._of_tokens = logits.dim() == 3
            places = int(self._starts[-1]) if self._of_tokens else self._rows
            shape = (places, *logits.shape[1 + self._of_tokens :])
            many = 4 * math.prod(shape) > EXACT_BYTES
            self._logits = torch.zeros(shape, dtype=torch.float16 if many else torch.float32)
        self._logits = _wide_enough(self._logits, logits)
        if self._of_tokens:
            self._put(self._logits, chosen, logits.to(self._logits.dtype))
        else:
            self._logits[chosen] = logits.to(self._logits.dtype)

    def _join(self, known: bool) -> None:
        """What the other processes have computed; some may have had no batch of their own."""
        stores = (None if known else self._logits, self._hidden)
        told = from_everyone([self._of_tokens, *map(_described, stores)])
        if len(told) == 1:
            return
        self._of_tokens = any(each[0] for each in told)
        logits, self._hidden = (
            _whole(store, [each[place + 1] for each in told]) for place, store in enumerate(stores)
        )
        self._logits = self._logits if known else logits

    def _put(self, store: Tensor, chosen: list[int], values: Tensor) -> None:
        """Write the real tokens of a padded batch into a store of all tokens."""
        for place, row in enumerate(chosen):
            begin, end = int(self._starts[row]), int(self._starts[row + 1])
            if end - begin > values.shape[1]:
                raise TrainingError(
                    f"the teacher gives {values.shape[1]} hidden states where its config says "
                    f"{end - begin}; set distillation.cache_limit_gb to 0"
                )
            store[begin:end] = values[place, self.place(end - begin, values.shape[1])]

    def place(self, count: int, length: int) -> slice:
        """Where in a padded row of some length so many real tokens are."""
        return slice(length - count, length) if self._left else slice(count)

    def _padded(self, store: Tensor, rows: Tensor, length: int) -> Tensor:
        padded = store.new_zeros(len(rows), length, *store.shape[1:])
        for place, row in enumerate(rows.tolist()):
            begin, end = int(self._starts[row]), int(self._starts[row + 1])
            if end <= len(store):
                padded[place, self.place(end - begin, length)] = store[begin:end]
        return padded

    @staticmethod
    def size(teacher: nn.Module, tokens: int) -> int:
        """Bytes that the hidden states of so many tokens would take."""
        config: Any = teacher.config
        return tokens * int(config.num_hidden_layers) * int(config.hidden_size) * 2

    def require(self, rows: int, hidden: int) -> None:
        """Refuse to serve other rows than those that the outputs are of.

        Raises:
            TrainingError: unless there are outputs of so many rows, and hidden states of so many.
        """
        if (rows, hidden) != (self._rows, self._hidden_rows):
            raise TrainingError(
                f"the teacher's outputs are of {self._rows} rows, with hidden states of "
                f"{self._hidden_rows}, but {rows} and {hidden} are trained on; pass teacher_cache "
                "only on to a trainer of the same rows and distillation"
            )

    @property
    def keeps_hidden(self) -> bool:
        """Whether hidden states of any row are kept."""
        return self._hidden_rows > 0

    def has_hidden(self, rows: Tensor) -> Tensor:
        """bool ``(batch,)``: of which rows hidden states are kept."""
        return rows < self._hidden_rows

    def logits(self, rows: Tensor, length: int = 0) -> Tensor:
        """float32 ``(batch, labels)``; for tokens ``(batch, length, labels)``, padding is zero."""
        if self._logits is None:
            raise TrainingError("the teacher's outputs were computed on an empty data set")
        logits = self._logits
        return (self._padded(logits, rows, length) if self._of_tokens else logits[rows]).float()

    def hidden_states(self, rows: Tensor, length: int) -> tuple[Tensor, ...]:
        """One float16 (or bfloat16) ``(batch, length, hidden)`` a layer, embeddings left out.

        Padding, and rows whose hidden states are not kept, are zero.
        """
        if self._hidden is None:
            raise TrainingError("the teacher's hidden states were not kept")
        return self._padded(self._hidden, rows, length).unbind(2)


def _too_large(states: Tensor) -> bool:
    """Whether something finite is beyond float16, whose largest number is 65,504."""
    most = states.abs().nan_to_num(0.0, 0.0, 0.0)
    return bool(most.numel()) and float(most.max()) > torch.finfo(torch.float16).max


def _wide_enough(store: Tensor, values: Tensor) -> Tensor:
    """The store, in bfloat16 where a value is beyond its float16; in the same place."""
    if store.dtype != torch.float16 or not _too_large(values):
        return store
    wide = store.view(torch.bfloat16)
    for old, new in zip(store.split(_AT_ONCE), wide.split(_AT_ONCE), strict=True):
        new.copy_(old.to(torch.bfloat16))
    return wide


def _batches(todo: list[int], hidden: int, size: int) -> list[list[int]]:
    """Rows cut into batches of one sort each, with or without hidden states.

    >>> _batches([0, 1, 2, 3, 4], 3, 2)
    [[0, 1], [2], [3, 4]]
    """
    found, done = [], 0
    while done < len(todo):
        chosen = todo[done : done + size]
        chosen = [row for row in chosen if (row < hidden) == (chosen[0] < hidden)]
        found.append(chosen)
        done += len(chosen)
    return found


def _described(store: Tensor | None) -> list[Any] | None:
    return None if store is None else [list(store.shape), str(store.dtype).split(".")[1]]


def _whole(store: Tensor | None, told: list[list[Any] | None]) -> Tensor | None:
    """A store with what all processes have of it; ``told``: shape and dtype in each, if any."""
    known = [each for each in told if each is not None]
    if not known:
        return None
    kinds = {each[1] for each in known}
    dtype = getattr(torch, "bfloat16" if "bfloat16" in kinds else kinds.pop())
    mine = torch.zeros(known[0][0], dtype=dtype) if store is None else store.to(dtype)
    shares.join_(mine)
    return mine


def pads_left(collate: Callable[[list[Any]], Any], dataset: Any) -> bool:
    """Whether a collator pads rows of ``input_ids`` on the left, tried on two of them.

    Raises:
        TrainingError: if it changes the tokens of a row.
    """
    return _pads_left(collate, dataset, TokenRows(dataset))


def _pads_left(collate: Callable[[list[Any]], Any], dataset: Any, ids: TokenRows | None) -> bool:
    if not ids:
        return False
    rows = _shortest_and_longest(ids)
    short = ids[rows[0]].tolist()
    padded = collate([dataset[row] for row in rows])["input_ids"][0].tolist()
    if padded[: len(short)] == short:
        return False
    if padded[len(padded) - len(short) :] == short:
        return True
    raise TrainingError(
        "the data collator changes the token ids of rows, so that the teacher's outputs on them "
        "cannot be computed once: set distillation.cache_limit_gb to 0"
    )


def depends_on_padding(
    teacher: Any, dataset: Any, collate: Callable[[list[Any]], Any], limit: float = 0.01
) -> bool:
    """Whether a row's outputs change with its padding, tried on the shortest row.

    Models that count positions from the first token of a batch, padding or not (GPT-2, BERT), are
    such, if the tokenizer pads on the left; and those whose config names another padding token.
    Then only outputs on the very batch that the student reads can be compared with its own.

    Args:
        limit: of the difference of logits, as a share of the largest.
    """
    ids = TokenRows(dataset)
    rows = _shortest_and_longest(ids)
    if len(ids[rows[0]]) == len(ids[rows[1]]):
        return False
    device = next(teacher.parameters()).device
    alone, beside = (
        teacher(**_inputs(collate([dataset[row] for row in chosen]), device)).logits[:1].float()
        for chosen in (rows[:1], rows)
    )
    if alone.dim() == 3:  # of tokens
        left, count = pads_left(collate, dataset), alone.shape[1]
        beside = beside[:, beside.shape[1] - count :] if left else beside[:, :count]
    return float((alone - beside).abs().max()) > limit * float(alone.abs().max())


def _shortest_and_longest(ids: TokenRows) -> list[int]:
    """The first row of each."""
    return [int(ids.lengths.argmin()), int(ids.lengths.argmax())]


def _digest(teacher: nn.Module, dataset: Any, ids: TokenRows) -> str:
    """Of all that logits depend on: weights, what the model makes of them, inputs, precision.

    Inputs are the columns beside the ids too, and texts that a teacher with a tokenizer of its own
    reads in place of them.
    """
    digest = hashlib.sha256(repr((type(teacher).__name__, torch.__version__)).encode())
    digest.update(repr((torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled())).encode())
    digest.update(cast(Any, teacher).config.to_json_string().encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for name in TEXT_INPUTS:
        if name in dataset.column_names:
            digest.update(name.encode())
            for row in ids if name == "input_ids" else TokenRows(dataset, name):
                digest.update(row.astype(np.int64).tobytes() + b";")
    for module in teacher.modules():
        known: Mapping[bytes, Any] = getattr(module, "originals", {})
        for row in ids if known else ():
            digest.update(repr(known.get(row_key(row))).encode())
    return digest.hexdigest()[:32]


def _kept_logits(place: Path, rows: int, labels: int) -> Tensor | None:
    """Logits of an earlier run, or ``None`` where there are none or the file is damaged."""
    try:
        found = load_file(place)["logits"].clone()
    except (OSError, KeyError, SafetensorError):
        return None
    kinds = (torch.float16, torch.bfloat16) if 4 * rows * labels > EXACT_BYTES else (torch.float32,)
    sound = found.dtype in kinds and found.shape == (rows, labels)
    if not sound or not bool(found.isfinite().all()):
        return None
    with suppress(OSError):  # used now: others are deleted before it
        place.touch()
    return found


def _inputs(batch: Any, device: torch.device) -> dict[str, Tensor]:
    names = (*TEXT_INPUTS, *IMAGE_INPUTS)
    return {name: batch[name].to(device) for name in names if name in batch}


def _lengths(rows: int, ids: TokenRows | None, config: Any) -> Tensor:
    """Tokens of each row, int64; ``ids`` is ``None`` for images."""
    if ids is None:
        return torch.full((rows,), image_tokens(config))
    return torch.from_numpy(ids.lengths)
