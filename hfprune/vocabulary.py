"""Which tokens a task needs, and the tokenizer that knows only those.

Word embeddings are half of a small model's file, and a task's texts use a part of them. Tokens are
chosen by :func:`kept_tokens` from training texts, :func:`reduced_tokenizer` makes the tokenizer
that splits the rare words into smaller pieces, and :func:`reduce_vocabulary_` does both and
removes the rows of the model's table.

A text whose tokens all stay is tokenized as before, and the model's logits on it are the same:

* WordPiece takes the longest token that fits: what it took is still there, and nothing longer came;
* Unigram takes the path of the highest score: that path is still there, and no better one came
  (the token of the lowest score stays, since the price of an unknown character hangs on it);
* BPE does the merge of the lowest rank: all merges that lead to a kept token stay, in their order.

Any other text is split into smaller pieces, and at worst into characters or bytes.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from hfprune.errors import DataError, PlanError
from hfprune.plan import PruningPlan
from hfprune.structure import model_sizes
from hfprune.surgery import required_tokens, shrink_

Rows = Iterable[Sequence[int]]

MODELS = ("WordPiece", "BPE", "Unigram")
TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
# What fast tokenizers save: all else in the folder is for the slow ones, and holds the old ids.
FAST_FILES = (TOKENIZER_FILE, SETTINGS_FILE, "special_tokens_map.json", "chat_template.jinja")

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WORD_START = "\u2581"  # how SentencePiece writes a space


@dataclass(frozen=True)
class TokenReport:
    """What a smaller vocabulary does to texts that it was not made from.

    Attributes:
        tokens_before, tokens_after: size of the vocabulary.
        unknown_before, unknown_after: share of tokens that are the unknown one, in [0, 1]; special
            tokens such as ``[CLS]`` are not counted.
        mean_length_before, mean_length_after: tokens a text, special ones included.
        changed: share of the texts that are tokenized otherwise than before, in [0, 1].
    """

    tokens_before: int
    tokens_after: int
    unknown_before: float
    unknown_after: float
    mean_length_before: float
    mean_length_after: float
    changed: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return asdict(self)


def reduce_vocabulary_(
    model: nn.Module, tokenizer: Any, rows: Rows, *, min_count: int = 1
) -> tuple[PruningPlan, Any]:
    """Choose tokens, and remove the others from a model. In place.

    Args:
        model: a classifier, dense or already shrunk.
        tokenizer: the fast tokenizer that it reads; not changed.
        rows: token ids of the training texts, as the model reads them.
        min_count: see :func:`kept_tokens`.

    Returns:
        The plan that was carried out (only its ``vocabulary`` removes anything), and the tokenizer
        for the model as it is now.

    Raises:
        DataError: for a tokenizer that cannot be reduced.
        PlanError: for a model without a vocabulary, or ids that do not fit it.
    """
    kept = kept_tokens(tokenizer, rows, min_count, also=required_tokens(model))
    smaller = reduced_tokenizer(tokenizer, kept)
    dense = PruningPlan.dense(model_sizes(model))
    plan = PruningPlan(dense.heads, dense.neurons, kept)
    shrink_(model, plan)
    return plan, smaller


def kept_tokens(
    tokenizer: Any, rows: Rows, min_count: int = 1, *, also: Iterable[int] = ()
) -> tuple[int, ...]:
    """Ids of the tokens that stay, ascending.

    Special and added tokens; every single character, as it begins a word and as it goes on; bytes;
    what the rows use at least ``min_count`` times; and with BPE what these are merged from.

    Args:
        tokenizer: a fast tokenizer of transformers.
        rows: token ids, one sequence a text.
        min_count: at least 1.
        also: further ids that must stay.

    Raises:
        DataError: if the tokenizer is a slow one, or its model is none of :data:`MODELS`.
        PlanError: if ``min_count`` is below 1, or an id in ``rows`` or ``also`` is no token.
    """
    if min_count < 1:
        raise PlanError(f"min_count is {min_count}; expected at least 1")
    parts = _Parts(tokenizer)
    counts: Counter[int] = Counter()
    for row in rows:
        counts.update(row)
    used = {token for token, count in counts.items() if count >= min_count}
    always = parts.fixed_tokens() | set(tokenizer.all_special_ids) | set(also)
    chosen = always | used
    if strange := sorted(chosen - parts.tokens.keys()):
        raise PlanError(
            f"ids {strange[:5]} are no tokens of the tokenizer, whose ids are 0 to "
            f"{max(parts.tokens)}; use the tokenizer that the model was trained with"
        )
    return tuple(sorted(chosen | parts.ancestors(chosen)))


def reduced_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """A tokenizer of the same class that knows only some tokens, counted anew from 0 in that order.

    Args:
        tokenizer: a fast tokenizer; not changed.
        kept: ascending ids, as :func:`kept_tokens` gives them.

    Returns:
        The tokenizer, with nothing left of the files for slow tokenizers, which hold the old ids.

    Raises:
        DataError: if the tokenizer cannot be reduced.
        PlanError: if ``kept`` leaves out tokens that the tokenizer cannot be without.
    """
    parts = _Parts(tokenizer)
    new = {old: index for index, old in enumerate(kept)}
    if missing := sorted(parts.added.keys() - new.keys()):
        raise PlanError(
            f"the added tokens {missing[:5]} must stay; use hfprune.vocabulary.kept_tokens"
        )
    content = parts.reduced(new)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        for file in folder.iterdir():
            if file.name not in FAST_FILES:
                file.unlink()
        (folder / TOKENIZER_FILE).write_text(
            json.dumps(content, ensure_ascii=False), encoding="utf-8"
        )
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if "added_tokens_decoder" in settings:
            settings["added_tokens_decoder"] = {
                str(new[int(old)]): token
                for old, token in settings["added_tokens_decoder"].items()
                if int(old) in new
            }
        (folder / SETTINGS_FILE).write_text(json.dumps(settings), encoding="utf-8")
        smaller = type(tokenizer).from_pretrained(folder, local_files_only=True)
        smaller.name_or_path = tokenizer.name_or_path
    wrong = [old for old in kept if smaller.convert_ids_to_tokens(new[old]) != parts.tokens[old]]
    if wrong or len(smaller) != len(kept):
        raise DataError(
            "the reduced tokenizer does not number its tokens as the model will (tokens "
            f"{wrong[:5]}, {len(smaller)} of {len(kept)}); remove pruning.vocabulary"
        )
    return smaller


def compare_tokens(
    before: Any, after: Any, kept: Sequence[int], rows_before: Rows, rows_after: Rows
) -> TokenReport:
    """How texts look to the old and to the reduced tokenizer.

    Args:
        before, after: the tokenizers.
        kept: what :func:`kept_tokens` gave.
        rows_before, rows_after: ids of the same texts, by each of them.

    Raises:
        DataError: if there are no texts, or not as many of one as of the other.
    """
    new = {old: index for index, old in enumerate(kept)}
    first, second = list(rows_before), list(rows_after)
    if not first or len(first) != len(second):
        raise DataError(
            f"expected the same texts for both tokenizers, got {len(first)} and {len(second)}"
        )
    changed = sum(
        [new.get(token, -1) for token in old] != list(row)
        for old, row in zip(first, second, strict=True)
    )
    return TokenReport(
        tokens_before=len(before),
        tokens_after=len(after),
        unknown_before=_unknown(before, first),
        unknown_after=_unknown(after, second),
        mean_length_before=sum(map(len, first)) / len(first),
        mean_length_after=sum(map(len, second)) / len(second),
        changed=changed / len(first),
    )


def _unknown(tokenizer: Any, rows: Sequence[Sequence[int]]) -> float:
    unknown: int | None = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown}
    tokens = [token for row in rows for token in row if token not in special]
    return sum(int(token == unknown) for token in tokens) / max(1, len(tokens))


class _Parts:
    """A fast tokenizer's ``tokenizer.json``, and what tokens it is made of.

    Attributes:
        tokens: id to token, added ones included.
        added: id to added token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(
                f"{type(tokenizer).__name__} is a slow tokenizer (Python only), whose vocabulary "
                "cannot be reduced; load the fast one (AutoTokenizer, use_fast=True), or remove "
                "pruning.vocabulary"
            )
        self.content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        self.model: dict[str, Any] = self.content["model"]
        self.kind = str(self.model.get("type"))
        if self.kind not in MODELS:
            raise DataError(
                f"the tokenizer's model is {self.kind}; only the vocabularies of "
                f"{', '.join(MODELS)} can be reduced: remove pruning.vocabulary"
            )
        entries = self.model["vocab"]
        names = (
            {index: str(token) for index, (token, _) in enumerate(entries)}
            if self.kind == "Unigram"
            else {int(index): str(token) for token, index in entries.items()}
        )
        self.names = names
        self.added = {int(t["id"]): str(t["content"]) for t in self.content["added_tokens"]}
        self.tokens = {**names, **self.added}
        self.prefix = str(self.model.get("continuing_subword_prefix") or "")
        self.suffix = str(self.model.get("end_of_word_suffix") or "")

    # -- choosing -------------------------------------------------------------------------------

    def fixed_tokens(self) -> set[int]:
        """Tokens that stay whatever the texts hold."""
        ids = {token: index for index, token in self.names.items()}
        found = set(self.added) | _processor_ids(self.content["post_processor"])
        found |= {index for index, token in self.names.items() if self._is_character(token)}
        if self.model.get("byte_fallback"):
            found |= {index for index, token in self.names.items() if _BYTE.fullmatch(token)}
        if self.model.get("unk_token") in ids:
            found.add(ids[self.model["unk_token"]])
        if self.kind == "Unigram":
            scores = [score for _, score in self.model["vocab"]]
            found.add(scores.index(min(scores)))
            if self.model["unk_id"] is not None:
                found.add(int(self.model["unk_id"]))
        return found

    def _is_character(self, token: str) -> bool:
        core = token.removeprefix(self.prefix) if token != self.prefix else token
        core = core.removesuffix(self.suffix) if core != self.suffix else core
        core = core.removeprefix(_WORD_START) if core != _WORD_START else core
        return len(core) == 1

    def ancestors(self, chosen: Iterable[int]) -> set[int]:
        """With BPE, what the chosen tokens are merged from; with other models nothing."""
        if self.kind != "BPE":
            return set()
        ids = {token: index for index, token in self.names.items()}
        ranks = {pair: rank for rank, pair in enumerate(self._merges())}
        ways: dict[str, list[tuple[str, str]]] = {}
        for pair in ranks:
            ways.setdefault(self._merged(pair), []).append(pair)
        wanted: set[str] = set()
        queue = [self.names[index] for index in chosen if index in self.names]
        while queue:
            token = queue.pop()
            parts = self._derivation(token, ranks)
            if parts is None:  # no course of merges ends in it alone: keep all that might
                parts = [part for pair in ways.get(token, ()) for part in pair]
            new = [part for part in parts if part not in wanted]
            wanted.update(new)
            queue.extend(new)
        return {ids[token] for token in wanted if token in ids}

    def _derivation(self, token: str, ranks: Mapping[tuple[str, str], int]) -> list[str] | None:
        """What a token is merged from, in the course that the merges take on it; None: in none."""
        core = token.removeprefix(self.prefix)
        going_on = bool(self.prefix) and token.startswith(self.prefix)
        ending = bool(self.suffix) and core.endswith(self.suffix)
        letters = list(core.removesuffix(self.suffix) if ending else core)
        symbols = [
            (self.prefix if place or going_on else "") + letter
            for place, letter in enumerate(letters)
        ]
        if ending and symbols:
            symbols[-1] += self.suffix
        seen = list(symbols)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(range(len(pairs)), key=lambda place: ranks.get(pairs[place], len(ranks)))
            if pairs[best] not in ranks:
                return None
            symbols[best : best + 2] = [self._merged(pairs[best])]
            seen.append(symbols[best])
        return seen if symbols == [token] else None

    def _merges(self) -> list[tuple[str, str]]:
        return [
            tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair)  # type: ignore[misc]
            for pair in self.model["merges"]
        ]

    def _merged(self, pair: tuple[str, str]) -> str:
        return pair[0] + pair[1].removeprefix(self.prefix)

    # -- reducing -------------------------------------------------------------------------------

    def reduced(self, new: Mapping[int, int]) -> dict[str, Any]:
        """The content with only the tokens in ``new`` (old id to new id)."""
        content, model = dict(self.content), dict(self.model)
        kept = [index for index in sorted(new) if index in self.names]
        if self.kind == "Unigram":
            model["vocab"] = [self.model["vocab"][index] for index in kept]
            if model["unk_id"] is not None:
                model["unk_id"] = new[model["unk_id"]]
        else:
            model["vocab"] = {self.names[index]: new[index] for index in kept}
        if self.kind == "BPE":
            model["merges"] = [
                list(pair)
                for pair in self._merges()
                if pair[0] in model["vocab"]
                and pair[1] in model["vocab"]
                and self._merged(pair) in model["vocab"]
            ]
        content["model"] = model
        content["added_tokens"] = [
            {**token, "id": new[token["id"]]} for token in self.content["added_tokens"]
        ]
        content["post_processor"] = _processor(self.content["post_processor"], new)
        if content.get("padding"):
            content["padding"] = {
                **content["padding"],
                "pad_id": new[content["padding"]["pad_id"]],
            }
        return content


def _processor(node: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with its token ids changed."""
    if node is None:
        return None
    node = dict(node)
    if node["type"] == "Sequence":
        node["processors"] = [_processor(part, new) for part in node["processors"]]
    elif node["type"] == "TemplateProcessing":
        node["special_tokens"] = {
            name: {**token, "ids": [new[index] for index in token["ids"]]}
            for name, token in node["special_tokens"].items()
        }
    elif node["type"] in ("BertProcessing", "RobertaProcessing"):
        for end in ("sep", "cls"):
            token, index = node[end]
            node[end] = [token, new[index]]
    return node


def _processor_ids(node: Any) -> set[int]:
    """All token ids that a post-processor puts in."""
    found: set[int] = set()

    class Recorder(dict[int, int]):
        def __missing__(self, index: int) -> int:
            found.add(index)
            return index

    _processor(node, Recorder())
    return found
