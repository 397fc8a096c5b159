"""Physical removal: projections and embeddings become smaller, empty blocks disappear.

The model keeps its class of transformers. What each layer kept is written to
``model.config.hfprune`` so that every way of saving the model also saves how to build it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hfprune.core.errors import CheckpointError, PlanError
from hfprune.families import BlockView, Projection, adapter_of, block_views, model_sizes, weight_of
from hfprune.families.blocks import KINDS, UNIT_NAMES
from hfprune.pruning.plan import PruningPlan

RECORD_KEY = "hfprune"
# The file of code that a folder may hold for those without hfprune, as a module.
CODE_MODULE = "modeling_pruned"
# What the class in it is called: this, and the name of the class of transformers.
CODE_PREFIX = "Pruned"
RECORD_VERSION = 1

# What plain ``from_pretrained`` of transformers says of a model whose layers differ, before it
# reads a weight: it refuses a kind of attention that it does not know, by this name. Versions 4 and
# 5 read it under different keys. Without it there is still the size mismatch, which names nobody.
_DIFFER = "none: layers differ in size, "
HINT = f"{_DIFFER}load it with hfprune.from_pretrained(folder)"
# Of an encoder without a head, which as a rule is a sentence encoder's: it pools besides.
ENCODER_HINT = (
    f"{_DIFFER}load a sentence encoder with hfprune.load_encoder(folder) or "
    "hfprune.load_as(SentenceTransformer, folder), a bare encoder with "
    "hfprune.from_pretrained(folder)"
)
_HINT_KEYS = ("_attn_implementation", "attn_implementation")


def hint_(config: Any, *, wanted: bool, hint: str = HINT) -> None:
    """Make a config say, once it is saved, who can build its model; or take that back. In place."""
    for key in _HINT_KEYS:
        if wanted:
            vars(config)[key] = hint
        elif _is_hint(vars(config).get(key)):
            vars(config).pop(key)


def hint_of(model: nn.Module) -> str:
    """Who can build a model, in words, by whether it has a head."""
    return ENCODER_HINT if getattr(model, "base_model", model) is model else HINT


def as_encoder_hint_(raw: dict[str, Any]) -> None:
    """In a saved classifier's config, of which the encoder alone is kept. In place."""
    for key in _HINT_KEYS:
        if _is_hint(raw.get(key)):
            raw[key] = ENCODER_HINT


def _is_hint(value: Any) -> bool:
    return str(value).startswith(_DIFFER)


def forget_hint_(config: Any) -> Any:
    """The config, of which a model can be built though the hint stood in its file. In place."""
    hint_(config, wanted=False)
    if _is_hint(getattr(config, "_attn_implementation", None)):
        config._attn_implementation = None
    return config


def shrink_(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """Remove what the plan does not keep. In place; returns the same model.

    Equal to the same plan applied as gates, in eval mode, up to float rounding. Gates must be
    detached first. Parameters are replaced, so an optimizer made before no longer trains them.

    With ``plan.vocabulary`` the rows of those tokens stay, in their order, and token ids are
    counted anew: the token ``plan.vocabulary[i]`` becomes ``i`` (see
    :mod:`hfprune.pruning.vocabulary` for the tokenizer that goes with it). Logits are the same, bit
    for bit.

    Args:
        model: a transformers model of a supported family, dense or already shrunk.
        plan: made for this model's present sizes.

    Raises:
        UnsupportedModelError: for an unknown family.
        PlanError: if the plan was made for other sizes, or drops a token that the model needs; the
            model is then untouched.
    """
    plan.require_sizes(model_sizes(model))
    differs = plan.sizes() != plan.totals() or _HINT_KEYS[0] in vars(model.config)
    if plan.vocabulary is not None:
        _check_vocabulary(model, plan.vocabulary)
    for key, view in block_views(model).items():
        kept = plan.kept(key)
        if not kept:
            _remove_block(view)
        elif len(kept) < view.units:
            _slice_block(view, kept)
    if plan.vocabulary is not None:
        _slice_vocabulary(model, plan.vocabulary)
    adapter_of(model).settle(model)
    write_record_(model)
    hint_(model.config, wanted=differs, hint=hint_of(model))
    return model


def resize_(model: nn.Module, kept: Sequence[tuple[int, int]]) -> nn.Module:
    """Give each layer ``(heads, neurons)`` of these sizes, values being of no account.

    For loading: the weights are read into the model afterwards.
    """
    return shrink_(model, PruningPlan.first_units(model_sizes(model), kept))


def read_record(config: Any, source: str) -> tuple[tuple[int, int], ...] | None:
    """The kept ``(heads, neurons)`` of each layer recorded in a config; ``None`` if there is none.

    Args:
        config: a ``PretrainedConfig``.
        source: where it came from, for the error.

    Raises:
        CheckpointError: if the record is malformed or claims more than the config allows.
    """
    record = getattr(config, RECORD_KEY, None)
    if record is None:
        return None
    if not isinstance(record, Mapping) or record.get("format_version") != RECORD_VERSION:
        raise CheckpointError(
            f"{source}: the {RECORD_KEY!r} record must be a mapping with format_version "
            f"{RECORD_VERSION}, got {record!r:.120}"
        )
    columns: list[list[int]] = []
    for kind in KINDS:
        name = UNIT_NAMES[kind]
        column = record.get(name)
        if not isinstance(column, list) or any(type(n) is not int or n < 0 for n in column):
            raise CheckpointError(
                f"{source}: {RECORD_KEY}.{name} must be a list of counts, one a layer, got "
                f"{column!r:.120}"
            )
        columns.append(column)
    heads, neurons = columns
    if len(heads) != len(neurons):
        raise CheckpointError(
            f"{source}: {RECORD_KEY} lists heads of {len(heads)} layers and neurons of "
            f"{len(neurons)}"
        )
    return tuple(zip(heads, neurons, strict=True))


def write_record_(
    model: nn.Module, *, layers: Sequence[int] | None = None, of_layers: int | None = None
) -> None:
    """Write what each layer of a model keeps into its config.

    ``per_layer_config`` repeats it in the words of transformers 5 (which records such values, and
    does not build models of them yet): ``intermediate_size`` and ``skip``, by layer.

    Args:
        layers, of_layers: of a model without the layers that it lost: numbers of those that it
            has, and how many there were.
    """
    sizes = model_sizes(model)
    config: Any = model.config
    before = getattr(config, RECORD_KEY, None)
    before = before if isinstance(before, Mapping) else {}
    record: dict[str, Any] = {
        "format_version": RECORD_VERSION,
        "heads": [heads for heads, _ in sizes],
        "neurons": [neurons for _, neurons in sizes],
        "per_layer_config": {
            str(index): {
                **({"intermediate_size": neurons} if neurons else {}),
                **({"skip": skip} if (skip := _skipped(heads, neurons)) else {}),
            }
            for index, (heads, neurons) in enumerate(sizes)
        },
    }
    earlier = before.get("layers")
    if layers is not None and isinstance(earlier, list):  # layers had left before
        layers = [earlier[index] for index in layers]
        of_layers = before.get("of_layers")
    elif layers is None and isinstance(earlier, list) and len(earlier) == len(sizes):
        layers, of_layers = earlier, before.get("of_layers")
    if layers is not None and isinstance(of_layers, int) and len(layers) < of_layers:
        record |= {"layers": list(layers), "of_layers": of_layers}
    setattr(config, RECORD_KEY, record)


def _skipped(heads: int, neurons: int) -> list[str]:
    """The blocks that a layer lacks, as transformers 5 calls them."""
    return [name for name, units in (("attention", heads), ("mlp", neurons)) if not units]


def required_tokens(model: nn.Module) -> frozenset[int]:
    """Ids of tokens that a model needs whatever its texts hold.

    What its config names (``pad_token_id`` and so on), and where positions are counted from the
    padding token's id, all ids below that one, so that it stays what it is.
    """
    table = word_embeddings(model)
    named = {token for ids in _config_tokens(model.config).values() for token in ids}
    found = {token for token in named if token < table.num_embeddings}
    pad = table.padding_idx
    if adapter_of(model).positions_from_padding and pad is not None:
        found.update(range(pad + 1))
    return frozenset(found)


def word_embeddings(model: nn.Module) -> nn.Embedding:
    """The table of ``(vocabulary, width)`` that token ids are looked up in.

    Raises:
        PlanError: for a model that reads no tokens, or also predicts them.
    """
    holder: Any = model
    table = holder.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        raise PlanError(
            f"{type(model).__name__} reads no tokens, so it has no vocabulary to reduce"
        )
    if holder.get_output_embeddings() is not None:
        raise PlanError(
            f"{type(model).__name__} predicts tokens; only a classifier's vocabulary can be reduced"
        )
    return table


def _config_tokens(config: Any) -> dict[str, list[int]]:
    """What a config says of token ids: key to ids (``eos_token_id`` may be a list)."""
    found = {}
    for name in vars(config):
        value = getattr(config, name) if name.endswith("_token_id") else None
        ids = value if isinstance(value, list) else [value]
        if ids and all(type(token) is int and token >= 0 for token in ids):
            found[name] = list(ids)
    return found


def _check_vocabulary(model: nn.Module, kept: Sequence[int]) -> None:
    rows = word_embeddings(model).num_embeddings
    if not kept:
        raise PlanError("the vocabulary of a plan is empty; leave it None to keep all tokens")
    if kept[0] < 0 or kept[-1] >= rows:
        raise PlanError(
            f"the plan keeps tokens {kept[0]} to {kept[-1]}, the model has ids 0 to {rows - 1}; "
            "make the plan from this model"
        )
    if missing := sorted(required_tokens(model) - set(kept)):
        raise PlanError(
            f"the plan drops tokens {missing[:5]}, which the model's config needs: keep them (see "
            "hfprune.pruning.surgery.required_tokens)"
        )


def _slice_vocabulary(model: nn.Module, kept: Sequence[int]) -> None:
    table = word_embeddings(model)
    rows = torch.tensor(kept, dtype=torch.long, device=table.weight.device)
    table.weight = _parameter(table.weight, table.weight.detach()[rows])
    table.num_embeddings = len(kept)
    new = {old: index for index, old in enumerate(kept)}
    if table.padding_idx is not None:
        table.padding_idx = new.get(table.padding_idx)
    config: Any = model.config
    for name, ids in _config_tokens(config).items():
        changed = [new.get(token, token) for token in ids]  # some defaults name no row at all
        setattr(config, name, changed if isinstance(getattr(config, name), list) else changed[0])
    config.vocab_size = len(kept)


def _remove_block(view: BlockView) -> None:
    for skip in view.skips:
        setattr(skip.parent, skip.attribute, skip.replacement.to(view.consumer.weight.device))
    for parent, attribute in view.discards:
        setattr(parent, attribute, nn.Identity())


def _slice_block(view: BlockView, kept: Sequence[int]) -> None:
    for producer in view.producers:
        _slice_rows(producer.module, producer.rows(kept, view.units))
    _slice_columns(view.consumer, view.columns(kept))
    view.set_units(kept)


def _slice_rows(module: Projection, rows: Tensor) -> None:
    rows = rows.to(module.weight.device)
    _set_weight(module, weight_of(module).detach()[rows])
    if module.bias is not None:
        module.bias = _parameter(module.bias, module.bias.detach()[rows])


def _slice_columns(module: Projection, columns: Tensor) -> None:
    _set_weight(module, weight_of(module).detach()[:, columns.to(module.weight.device)])


def _set_weight(module: Projection, weight: Tensor) -> None:
    """Take a weight of shape ``(outputs, inputs)``."""
    outputs, inputs = weight.shape
    if isinstance(module, Conv1D):
        module.weight = _parameter(module.weight, weight.T)
        module.nf, module.nx = outputs, inputs
    else:
        module.weight = _parameter(module.weight, weight)
        module.out_features, module.in_features = outputs, inputs


def _parameter(old: Tensor, value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.clone().contiguous(), requires_grad=old.requires_grad)
