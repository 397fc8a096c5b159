"""What a folder of sentence-transformers says it is made of, in its old form and that of 5.4 on.

``modules.json`` lists modules one after the other: a transformer (at the top or in a folder of its
own), pooling, and perhaps dense layers and a normalisation. A CrossEncoder is a transformer alone,
with a classifier's head: a classifier like any other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hfprune.core.errors import CheckpointError, UnsupportedModelError
from hfprune.core.files import atomic_write_json, atomic_write_text
from hfprune.core.reading import read_json
from hfprune.models.folders import inside

MODULES: Final = "modules.json"
POOLING_MODES: Final = ("cls_token", "mean_tokens", "max_tokens")
# Names of 5.4 on -> those of the flags before it.
NEW_MODES: Final = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
# What may follow the pooling.
_LATER: Final = ("Dense", "Normalize")
# Of a module, what is copied.
MODULE_FILES: Final = ("config.json", "model.safetensors", "pytorch_model.bin")
# Beside the modules, and carried along: prompts and the size to cut to; how long texts may be.
PROMPTS_FILE: Final = "config_sentence_transformers.json"
LENGTH_FILE: Final = "sentence_bert_config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_FILES: Final = (PROMPTS_FILE, LENGTH_FILE)
# What stands before queries and before the texts among which they search, by name: the first that
# there is, as `encode_query` and `encode_document` of sentence-transformers take it.
QUERY_PROMPTS: Final = ("query",)
TEXT_PROMPTS: Final = ("document", "passage", "corpus")


@dataclass(frozen=True)
class LaterModule:
    """A module after the pooling.

    Attributes:
        kind: ``Dense`` or ``Normalize``.
        folder: where its files lie, if it has any.
        config: the content of its ``config.json``, empty without one.
    """

    kind: str
    folder: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class SentenceLayout:
    """What a sentence encoder's folder says.

    Attributes:
        transformer: the folder that holds the transformer.
        pooling: one of :data:`POOLING_MODES`.
        pooling_config: the whole content of the pooling module's ``config.json``.
        later: the modules after the pooling, in order.
        files: further files to carry along, by name.
        types: the ``type`` of every module, as ``modules.json`` spells it.
        said: by the name of a file, values that count in place of those in it.
    """

    transformer: Path
    pooling: str
    pooling_config: Mapping[str, Any]
    later: tuple[LaterModule, ...]
    files: Mapping[str, Path]
    types: tuple[str, ...]
    said: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def normalize(self) -> bool:
        """Whether embeddings are scaled to length 1."""
        return any(module.kind == "Normalize" for module in self.later)


def read_layout(folder: str | Path) -> SentenceLayout | None:
    """The layout of a folder; ``None`` if it is no sentence encoder's.

    So is a folder without ``modules.json``, and that of a CrossEncoder.

    Raises:
        CheckpointError: if ``modules.json`` or the config of a module cannot be read.
        UnsupportedModelError: for modules other than transformer, pooling, dense layers and
            normalisation, and for pooling other than by the first token, the mean or the largest
            value.
    """
    root = Path(folder)
    if not (root / MODULES).is_file():
        return None
    modules = read_json(root / MODULES)
    try:
        types = tuple(str(entry["type"]) for entry in modules)
        places = [inside(root, entry["path"]) for entry in modules]
    except (TypeError, LookupError, ValueError) as error:
        raise CheckpointError(f"{root / MODULES} lists no modules: {error!r:.200}") from error
    names = [kind.rpartition(".")[2] for kind in types]
    if names == ["Transformer"]:
        return None
    if names[:2] != ["Transformer", "Pooling"] or not set(names[2:]) <= set(_LATER):
        raise UnsupportedModelError(
            f"{root / MODULES} lists the modules {names!r:.200}; hfprune knows sentence encoders "
            "of Transformer, Pooling and, if need be, Dense and Normalize"
        )
    later = tuple(
        LaterModule(kind, place, _config_of(place))
        for kind, place in zip(names[2:], places[2:], strict=True)
    )
    pooling = read_json(places[1] / "config.json")
    files = {}
    for name in _FILES:
        for place in (root / name, places[0] / name):
            if place.is_file():
                files[name] = place
                break
    mode = _pooling_mode(pooling, places[1] / "config.json")
    return SentenceLayout(places[0], mode, pooling, later, files, types)


def write_modules(layout: SentenceLayout, folder: Path) -> None:
    """Write beside a transformer's files what makes it a folder of sentence-transformers.

    Args:
        layout: of the folder that the transformer came from.
        folder: that holds the transformer at its top.
    """
    kinds = ["Pooling", *(module.kind for module in layout.later)]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds, 1))]
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)
    atomic_write_json(folder / paths[1] / "config.json", dict(layout.pooling_config))
    copies = [
        (module.folder / name, folder / path / name)
        for path, module in zip(paths[2:], layout.later, strict=True)
        for name in MODULE_FILES
    ]
    copies += [(source, folder / name) for name, source in layout.files.items()]
    for source, target in copies:
        if source.is_file() and not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)
    for name in layout.said:
        atomic_write_json(folder / name, _settings(layout, name))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(zip(paths, layout.types, strict=True))
    ]
    atomic_write_text(folder / MODULES, json.dumps(modules, indent=2) + "\n")


def usual_layout(place: str | Path, pooling: str, normalize: bool, hidden: int) -> SentenceLayout:
    """What is made of an encoder's folder that says nothing of pooling.

    Args:
        place: the folder.
        pooling: ``mean``, ``cls`` or ``max``.
        normalize: whether embeddings are scaled to length 1.
        hidden: the size of hidden states.
    """
    mode = NEW_MODES[pooling]
    config = {"word_embedding_dimension": hidden}
    config |= {f"pooling_mode_{name}": name == mode for name in POOLING_MODES}
    types = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")]
    later: tuple[LaterModule, ...] = ()
    if normalize:
        types.append("sentence_transformers.models.Normalize")
        later = (LaterModule("Normalize", Path(place) / "2_Normalize", {}),)
    return SentenceLayout(Path(place), mode, config, later, {}, tuple(types))


def prompts_of(layout: SentenceLayout) -> tuple[dict[str, str], str | None]:
    """What stands before texts, by name, and the name of the one that is meant without a word.

    Raises:
        CheckpointError: prompts that are no texts, or a default that is none of them.
    """
    file, said = layout.files.get(PROMPTS_FILE), _settings(layout, PROMPTS_FILE)
    prompts, default = said.get("prompts") or {}, said.get("default_prompt_name")
    sound = isinstance(prompts, dict) and all(isinstance(text, str) for text in prompts.values())
    if not sound or not (default is None or default in prompts):
        raise CheckpointError(
            f"{file} names the prompts {prompts!r:.120} and the default {default!r:.80}; expected "
            "texts by name, and one of the names or null"
        )
    return prompts, default


def prompt_of(layout: SentenceLayout, name: str | None = None) -> str:
    """What is put before each text; empty for nothing.

    Args:
        layout: of the encoder.
        name: of a prompt; ``None``: the one that is meant without a word.

    Raises:
        CheckpointError: there is no such prompt; also as :func:`prompts_of`.
        UnsupportedModelError: the tokens of the prompt are left out of the pooling.
    """
    prompts, default = prompts_of(layout)
    chosen = default if name is None else name
    if chosen is None:
        return ""
    if chosen not in prompts:
        raise CheckpointError(
            f"{layout.transformer} has no prompt {chosen!r}; it has "
            f"{', '.join(map(repr, prompts)) or 'none'}"
        )
    if prompts[chosen] and layout.pooling_config.get("include_prompt") is False:
        raise UnsupportedModelError(
            f"{layout.transformer} leaves the tokens of its prompt {chosen!r} out of the pooling "
            "(include_prompt: false), which hfprune does not do"
        )
    return prompts[chosen]


def search_prompts(folder: str | Path, name: str | None = None) -> tuple[str, str]:
    """What is put before queries, and before the texts among which they search.

    Args:
        folder: of the encoder; a bare one has no prompts.
        name: of the prompt for what the folder has no prompt of its own; as :func:`prompt_of`.

    Raises:
        CheckpointError, UnsupportedModelError: as :func:`prompt_of`.
    """
    layout = read_layout(folder) or usual_layout(folder, "mean", False, 0)
    prompts, _ = prompts_of(layout)

    def first(names: tuple[str, ...]) -> str:
        return prompt_of(layout, next((one for one in names if one in prompts), name))

    return first(QUERY_PROMPTS), first(TEXT_PROMPTS)


def longest_of(layout: SentenceLayout) -> int | None:
    """The most tokens of a text (``max_seq_length``), if the folder says so."""
    wanted = _settings(layout, LENGTH_FILE).get("max_seq_length")
    return wanted if type(wanted) is int and wanted > 0 else None


def lower_of(layout: SentenceLayout) -> bool:
    """Whether texts are put in small letters before the tokenizer reads them."""
    return _settings(layout, LENGTH_FILE).get("do_lower_case") is True


def cut_of(layout: SentenceLayout) -> int | None:
    """How many numbers of an embedding are kept, the first ones (``truncate_dim``); ``None``: all.

    Raises:
        CheckpointError: it is no count.
    """
    size = _settings(layout, PROMPTS_FILE).get("truncate_dim")
    if size is not None and (type(size) is not int or size < 1):
        raise CheckpointError(
            f"{layout.files.get(PROMPTS_FILE)} names the truncate_dim {size!r:.80}; expected a "
            "whole number of at least 1, or null"
        )
    return size


def similarity_of(layout: SentenceLayout) -> str:
    """How the folder means its embeddings to be compared: ``cosine``, if it says nothing."""
    return str(_settings(layout, PROMPTS_FILE).get("similarity_fn_name") or "cosine")


def served_as(layout: SentenceLayout, prompt: str | None, max_length: int) -> SentenceLayout:
    """The layout of what is pruned: it is served as it was trained and measured.

    Args:
        layout: of the dense encoder.
        prompt: the name of the prompt that stood before each text; ``None``: the folder's default.
        max_length: tokens, where texts were cut.

    Raises:
        CheckpointError, UnsupportedModelError: as :func:`prompt_of`.
    """
    prompt_of(layout, prompt)
    said = dict(layout.said)
    if prompt is not None and prompt != prompts_of(layout)[1]:
        said[PROMPTS_FILE] = {**said.get(PROMPTS_FILE, {}), "default_prompt_name": prompt}
    layout = replace(layout, said=said)
    return layout if max_length == longest_of(layout) else cut_before(layout, max_length)


def cut_before(layout: SentenceLayout, max_length: int) -> SentenceLayout:
    """A layout that cuts texts at so many tokens, whatever its files say."""
    said = {**layout.said.get(LENGTH_FILE, {}), "max_seq_length": max_length}
    return replace(layout, said={**layout.said, LENGTH_FILE: said})


def cut_at(folder: Path, max_length: int) -> None:
    """Let whoever loads a classifier of texts cut them where they were measured, if not before.

    That is what tokenizer and, of a CrossEncoder, modules say; what a folder lacks stays so.

    Args:
        folder: whose files are changed.
        max_length: in tokens.
    """
    for name, key, always in (
        (TOKENIZER_CONFIG, "model_max_length", True),
        (LENGTH_FILE, "max_seq_length", False),
    ):
        file = folder / name
        said = read_json(file) if file.is_file() else None
        if not isinstance(said, dict):
            continue
        known = said.get(key)
        if (known is not None or always) and not (isinstance(known, int) and known <= max_length):
            atomic_write_json(file, {**said, key: max_length})


def _settings(layout: SentenceLayout, name: str) -> dict[str, Any]:
    """What one of the files beside the modules says."""
    file = layout.files.get(name)
    found = {} if file is None else read_json(file)
    return {**(found if isinstance(found, dict) else {}), **layout.said.get(name, {})}


def layout_or_note(folder: str | Path) -> tuple[SentenceLayout | None, str | None]:
    """As :func:`read_layout`; for a layout that is not known, ``None`` and what to tell of it.

    Its transformer can be pruned as a classifier all the same.

    Raises:
        CheckpointError: if a file of the layout cannot be read.
    """
    try:
        return read_layout(folder), None
    except UnsupportedModelError as error:
        return None, f"no sentence encoder will be written, only the classifier: {error}"


def cross_encoder_files(folder: str | Path) -> dict[str, Path]:
    """What a CrossEncoder's folder holds besides a classifier, to carry along, by name.

    Empty for other folders, names on the Hub, a transformer that is not at the top (where its
    files then lie elsewhere than in a model that hfprune saves), and modules that are not of
    sentence-transformers itself.
    """
    root = Path(folder)
    if not (root / MODULES).is_file() or layout_or_note(root)[0] is not None:
        return {}
    kinds = [(str(entry["type"]), entry["path"]) for entry in read_json(root / MODULES)]
    if len(kinds) != 1 or kinds[0][1] != "" or not kinds[0][0].startswith("sentence_transformers."):
        return {}
    return {name: root / name for name in (MODULES, *_FILES) if (root / name).is_file()}


def _config_of(place: Path) -> Mapping[str, Any]:
    file = place / "config.json"
    value = read_json(file) if file.is_file() else {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {value!r:.80}")
    return value


def _pooling_mode(config: Any, file: Path) -> str:
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {config!r:.80}")
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        asked = list(named) if isinstance(named, list) else [named]
        known = [NEW_MODES[mode] for mode in asked if mode in list(NEW_MODES)]
        expected = f"pooling_mode {', '.join(NEW_MODES)}"
    else:
        known = [name for name in POOLING_MODES if config.get(f"pooling_mode_{name}")]
        asked = [k for k, on in config.items() if k.startswith("pooling_mode_") and on is True]
        expected = ", ".join(f"pooling_mode_{name}" for name in POOLING_MODES)
    if len(known) != 1 or len(asked) != 1:
        raise UnsupportedModelError(
            f"{file} asks for pooling by {asked!r:.200}; expected exactly one of {expected}"
        )
    return known[0]
