"""The tokenizer that knows only the kept tokens: WordPiece, BPE and Unigram."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hfprune.core.errors import DataError, PlanError

MODELS = ("WordPiece", "BPE", "Unigram")
TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"

# What fast tokenizers save: all else in the folder is for the slow ones, and holds the old ids.
FAST_FILES = (TOKENIZER_FILE, SETTINGS_FILE, "special_tokens_map.json", "chat_template.jinja")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WORD_START = "\u2581"  # how SentencePiece writes a space


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
    parts = Parts(tokenizer)
    new = {old: index for index, old in enumerate(kept)}
    if missing := sorted(parts.added.keys() - new.keys()):
        raise PlanError(
            f"the added tokens {missing[:5]} must stay; use kept_tokens (pruning.vocabulary)"
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


class Parts:
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
