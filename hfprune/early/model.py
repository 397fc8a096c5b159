"""What a model's folder says of it in small files, without PyTorch and without the network."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.kinds import KINDS, OWN_MODEL_TYPES, TEXT, Kind
from hfprune.core.reading import read_json
from hfprune.core.text import one_line
from hfprune.models.cross_encoder import is_cross_encoder
from hfprune.models.encoder_checks import check_headless
from hfprune.models.folders import check_place, has_tokenizer, model_folder
from hfprune.models.layout import MODULES, SentenceLayout, read_layout

_LAYERS: Final = ("num_hidden_layers", "n_layers", "n_layer")
_WIDTH: Final = ("hidden_size", "dim", "n_embd")
_INNER: Final = ("intermediate_size", "hidden_dim", "n_inner")
_POSITIONS: Final = ("max_position_embeddings", "n_positions")
# Positions that are no places for tokens: these families count from after the padding's id.
_OFFSET: Final = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2}
# What tokenizers write where they know no limit.
_NO_LIMIT: Final = 10**6


@dataclass(frozen=True)
class ModelFacts:
    """What small files say of a model; what they do not say is ``None``.

    Attributes:
        name: as the user gave it.
        folder: where its files lie; ``None`` for a name on the Hub that is not in the cache.
        model_type: of its ``config.json``.
        layers, width, inner: blocks of each kind, size of the residual stream, neurons of a block.
        vocabulary: tokens.
        kind: what its class predicts, where it has a head.
        labels: of a fine-tuned classifier, in the order of their numbers.
        problem: its ``problem_type``.
        tokenizer_limit, positions: most tokens of an input, special ones included, as its tokenizer
            and its positions have it.
        tokenizer: ``tokenizer.json``, which lengths are measured with.
        cross_encoder: whether it is a folder of a CrossEncoder, which reads pairs.
        root: where what makes it a sentence encoder would lie, and does as far as it has any:
            ``None`` where that is not known, as of the Hub's cache, which may hold a part.
        near: of a name that is no folder, one of a model here that is spelled nearly so.
    """

    name: str
    folder: Path | None = None
    model_type: str | None = None
    layers: int | None = None
    width: int | None = None
    inner: int | None = None
    vocabulary: int | None = None
    kind: Kind | None = None
    labels: tuple[str, ...] | None = None
    problem: str | None = None
    tokenizer_limit: int | None = None
    positions: int | None = None
    tokenizer: Path | None = None
    cross_encoder: bool = False
    root: Path | None = None
    near: str | None = None

    @property
    def ranks(self) -> bool | None:
        """Whether it gives one score, as rerankers do; ``None``: it has no head that says so."""
        if self.kind is None:
            return None
        return self.kind is TEXT and len(self.labels or ()) == 1

    @property
    def bare(self) -> bool:
        """Whether its folder says nothing of how texts become vectors; false where unknown."""
        return self.root is not None and not (self.root / MODULES).is_file()

    @property
    def unseen(self) -> str | None:
        """What to tell of a name of which nothing is here, not to wait for the Hub in vain."""
        if self.folder is not None:
            return None
        meant = "" if self.near is None else f"; did you mean the folder {self.near!r}?"
        return f"{self.name} is not on this machine yet: a run looks it up on the Hub{meant}"

    @property
    def limit(self) -> int | None:
        """Most tokens of an input; ``None`` where nothing says."""
        limits = [one for one in (self.tokenizer_limit, self.positions) if one is not None]
        return min(limits, default=None)

    @property
    def named_labels(self) -> bool:
        """Whether its labels are words of a person, and not ``LABEL_0``."""
        labels = self.labels or ()
        return any(label != f"LABEL_{number}" for number, label in enumerate(labels))

    @property
    def block_weights(self) -> int | None:
        """Weights of all attention and feed-forward blocks, about; ``None`` where sizes lack."""
        if self.layers is None or self.width is None:
            return None
        inner = 4 * self.width if self.inner is None else self.inner
        return self.layers * (4 * self.width**2 + 2 * self.width * inner)


def look_at(name: str, key: str) -> ModelFacts:
    """Look at a model by name: a folder, or what the Hub's cache holds of it.

    Args:
        name: a folder, or a name on the Hub, which is not asked.
        key: what names it, for errors: a key of a recipe or an option.

    Raises:
        CheckpointError: a path that is not there, or a folder whose ``config.json`` is missing or
            damaged.
        UnsupportedModelError: a family that nothing installed can prune.
    """
    try:
        check_place(name)
        folder = _place(name)
        if folder is None:
            return ModelFacts(name, near=_near(name))
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            return ModelFacts(name, folder, tokenizer=_tokenizer(folder))
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                "the folder holds no config.json; give one that save_pretrained or a run wrote"
            )
        raw = read_json(folder / "config.json")
        if not isinstance(raw, dict):
            raise CheckpointError(
                f"its config.json must hold a JSON object, got {one_line(repr(raw), 80)}"
            )
    except CheckpointError as error:
        raise CheckpointError(f"{key} {name!r}: {error}") from error
    _check_family(raw.get("model_type"), f"{key} {name!r}")
    kind = _kind(raw)
    return ModelFacts(
        name=name,
        folder=folder,
        model_type=raw.get("model_type"),
        layers=_number(raw, _LAYERS),
        width=_number(raw, _WIDTH),
        inner=_number(raw, _INNER),
        vocabulary=_number(raw, ("vocab_size",)),
        kind=kind,
        labels=None if kind is None else _labels(raw),
        problem=raw.get("problem_type"),
        tokenizer_limit=_limit_of_tokenizer(folder),
        positions=_positions(raw),
        tokenizer=_tokenizer(folder),
        cross_encoder=is_cross_encoder(folder),
        root=_root(name, folder),
    )


def _place(name: str) -> Path | None:
    """The folder of a model; of a name on the Hub that of the cache, if its config is there."""
    if Path(name).is_dir():
        return Path(model_folder(name))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _root(name: str, folder: Path) -> Path | None:
    if Path(name).is_dir():
        return Path(name)
    return folder if (folder / MODULES).is_file() else None


def _near(name: str) -> str | None:
    """A folder with a model beside where the name would be one, spelled nearly so."""
    place = Path(name)
    try:
        beside = [each.name for each in place.parent.iterdir() if (each / "config.json").is_file()]
    except OSError:
        return None
    found = difflib.get_close_matches(place.name, beside, n=1, cutoff=0.75)
    return str(place.parent / found[0]) if found else None


def _check_family(model_type: Any, named: str) -> None:
    if model_type is None or model_type in OWN_MODEL_TYPES:
        return
    if entry_points(group="hfprune.families"):
        return  # a plug-in may know it, and is not loaded for a look
    raise UnsupportedModelError(
        f"{named}: hfprune does not know how to prune model type {one_line(repr(model_type), 60)}; "
        f"supported: {', '.join(OWN_MODEL_TYPES)}"
    )


def _kind(raw: Mapping[str, Any]) -> Kind | None:
    names = raw.get("architectures")
    first = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    return next((kind for kind in KINDS if first.endswith(kind.ending)), None)


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by number; a config does not write the two that transformers takes by itself."""
    named = raw.get("id2label")
    if isinstance(named, dict) and all(str(key).isdecimal() for key in named):
        return tuple(str(named[key]) for key in sorted(named, key=int))
    count = raw.get("num_labels")
    return tuple(f"LABEL_{number}" for number in range(count if type(count) is int else 2))


def _number(raw: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((raw[name] for name in names if type(raw.get(name)) is int and raw[name] > 0), None)


def _positions(raw: Mapping[str, Any]) -> int | None:
    found = _number(raw, _POSITIONS)
    if found is None or raw.get("position_biased_input") is False:
        return None  # DeBERTa's distances set no limit
    return found - _OFFSET.get(str(raw.get("model_type")), 0)


def _limit_of_tokenizer(folder: Path) -> int | None:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return None
    value = read_json(file)
    found = value.get("model_max_length") if isinstance(value, dict) else None
    return found if type(found) is int and 0 < found < _NO_LIMIT else None


def _tokenizer(folder: Path) -> Path | None:
    file = folder / "tokenizer.json"
    return file if file.is_file() else None


def check_tokenizer(facts: ModelFacts, key: str, other: str | None) -> None:
    """Refuse a folder of texts' model that holds no tokenizer.

    Args:
        facts: of the model.
        key: what names it, for the error.
        other: where the tokenizer is taken from instead (``model.tokenizer``).

    Raises:
        CheckpointError: there is none.
    """
    if facts.folder is None or other is not None or facts.kind not in (None, TEXT):
        return
    if facts.model_type in ("vit", "deit") or has_tokenizer(facts.folder):
        return
    if (facts.folder / "adapter_config.json").is_file():
        return  # its base has one
    raise CheckpointError(
        f"{key} {facts.name!r} holds no tokenizer: save the model's beside it "
        "(tokenizer.save_pretrained), or name the model that it was fine-tuned from in "
        "model.tokenizer"
    )


def encoder_layout(facts: ModelFacts, key: str) -> SentenceLayout | None:
    """The modules of a sentence encoder; ``None`` of a bare one, and where nothing is known.

    Raises:
        CheckpointError: a model with a head and no such modules, or modules that cannot be read.
        UnsupportedModelError: as :func:`hfprune.models.layout.read_layout`.
    """
    layout = None if facts.root is None else read_layout(facts.root)
    if facts.folder is not None:
        check_headless(facts.folder, layout, f"{key} {facts.name!r}")
    return layout


def lengths_of(tokenizer: Path, texts: list[str], pairs: list[str] | None = None) -> list[int]:
    """Tokens of each text (or pair), special ones included, uncut.

    Raises:
        CheckpointError: the file is no tokenizer.
    """
    from tokenizers import Tokenizer  # type: ignore[import-untyped]

    try:
        found = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{tokenizer} cannot be read: {one_line(str(error), 200)}; save the tokenizer again"
        ) from error
    found.no_truncation()
    found.no_padding()
    rows: list[Any] = texts if pairs is None else list(zip(texts, pairs, strict=True))
    return [len(row.ids) for row in found.encode_batch(rows)]


def guessed_lengths(texts: list[str]) -> list[int]:
    """Tokens of each text where no tokenizer is at hand: four for three words, and two special."""
    return [2 + round(len(text.split()) * 4 / 3) for text in texts]


def as_text(value: Any) -> str:
    """A cell as the text that a tokenizer reads; words of a row are joined."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
