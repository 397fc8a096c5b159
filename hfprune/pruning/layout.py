"""Models that every transformers builds by itself: sizes that one config can say.

A shrunk model keeps all its layers, emptied ones too, while it is worked on. At the end
:func:`finish_` takes the emptied layers out, and writes the sizes that the others share into the
config where that says it all: no marker among the tensors, and for ``layout: uniform`` no key of
hfprune either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from torch import nn

from hfprune.core.errors import PlanError, UnsupportedModelError
from hfprune.families import adapter_for, adapter_of, model_sizes
from hfprune.pruning.programme.uniform import StockForm, UniformShape, stock_form
from hfprune.pruning.surgery import RECORD_KEY, hint_, write_record_

Layout: TypeAlias = Literal["uneven", "uniform"]


def check_family(model_type: str) -> None:
    """Refuse a family whose config hfprune does not know how to write, before any work.

    Raises:
        UnsupportedModelError: for ``pruning.layout: uniform`` with such a family.
    """
    adapter = adapter_for(model_type)
    if adapter.stock is None:
        raise UnsupportedModelError(
            f"pruning.layout: uniform writes sizes into the model's config, and the adapter "
            f"{type(adapter).__name__} of {model_type!r} models does not say what that calls them: "
            "set its attribute stock, or let layers differ (pruning.layout: uneven)"
        )


def uniform_shape(model: nn.Module) -> UniformShape:
    """What the config of a model can say of its layers, besides the sizes that they share.

    Raises:
        UnsupportedModelError: for a family that does not say so.
        PlanError: the model's layers already differ in what they keep.
    """
    shape = _shape(model)
    config: Any = model.config
    heads, _ = adapter_of(model).stock_sizes(config)
    sizes = model_sizes(model)
    if stock_form(sizes, heads, shape) is None:
        shown = ", ".join(f"{h}+{n}" for h, n in sizes)
        raise PlanError(
            f"the model's layers differ already (heads+neurons: {shown}), so they cannot be made "
            "alike: start from one that is not pruned, or set pruning.layout: uneven"
        )
    return shape


def stock_form_of(model: nn.Module) -> StockForm | None:
    """How a config alone would say the sizes of a model; ``None`` where it cannot."""
    adapter = adapter_of(model)
    if adapter.stock is None:
        return None
    config: Any = model.config
    return stock_form(model_sizes(model), adapter.stock_sizes(config)[0], _shape(model))


def loads_alone(model: nn.Module) -> bool:
    """Whether plain ``from_pretrained`` of transformers builds the model as it is."""
    form = stock_form_of(model)
    adapter = adapter_of(model)
    return (
        form is not None
        and len(form.layers) == len(adapter.layers(model))
        and (form.heads, form.neurons) == adapter.stock_sizes(model.config)
    )


def finish_(model: nn.Module, layout: Layout) -> bool:
    """Give a shrunk model the form in which transformers builds it alone, if it has one. In place.

    Emptied layers are taken out, so ``num_hidden_layers`` (as the family calls it) counts those
    that are left, and the record says which they are. For ``uniform`` the config says what the
    layers share, and nothing of hfprune. An ``uneven`` model loads alone only where whole layers
    are all that is gone. Logits stay the same, bit for bit. A finished model can be pruned further;
    its layers are counted anew.

    Returns:
        Whether plain ``from_pretrained`` of transformers loads the model now.

    Raises:
        PlanError: ``uniform``, for a model whose layers are not alike.
    """
    adapter = adapter_of(model)
    config: Any = model.config
    form = stock_form_of(model)
    if layout == "uniform" and form is None:
        uniform_shape(model)  # says why
    before = adapter.stock_sizes(config)
    if form is None or (layout == "uneven" and (form.heads, form.neurons) != before):
        _drop_empty_(model)
        return False
    count = len(adapter.layers(model))
    if len(form.layers) < count:
        _drop_layers_(model, form.layers)
    adapter.write_stock_sizes(config, form.heads, form.neurons)
    hint_(config, wanted=False)
    if layout == "uniform":
        if hasattr(config, RECORD_KEY):
            delattr(config, RECORD_KEY)
    else:
        write_record_(model, layers=form.layers, of_layers=count)
    return True


def _drop_empty_(model: nn.Module) -> None:
    """Take the emptied layers out of a model whose other layers differ, those that can leave."""
    adapter = adapter_of(model)
    if adapter.stock is None or adapter.stock.layers is None:
        return
    sizes = model_sizes(model)
    empty = {index for index, layer in enumerate(sizes) if not any(layer)}
    groups = [set(group) for group in _shape(model).groups if empty.issuperset(group)]
    gone = set().union(*groups)
    if gone and len(gone) == len(sizes):  # of a model without layers nobody makes anything
        gone -= groups[0]
    if not gone:
        return
    layers = [index for index in range(len(sizes)) if index not in gone]
    _drop_layers_(model, layers)
    write_record_(model, layers=layers, of_layers=len(sizes))


def _drop_layers_(model: nn.Module, layers: Sequence[int]) -> None:
    adapter = adapter_of(model)
    if adapter.stock is None or adapter.stock.layers is None:
        raise UnsupportedModelError(f"no layer can leave a {type(model).__name__}")
    holder = adapter.layer_list(model)
    count = len(holder)
    for index in sorted(set(range(count)) - set(layers), reverse=True):
        del holder[index]
    for index, layer in enumerate(holder):
        for module in layer.modules():
            # Where caches lie, and what is told of a layer in logs.
            for name in ("layer_idx", "layer_id"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)
    config: Any = model.config
    kinds = getattr(config, "layer_types", None)
    setattr(config, adapter.stock.layers, len(layers))
    if isinstance(kinds, list) and len(kinds) == count:
        config.layer_types = [kinds[index] for index in layers]


def _shape(model: nn.Module) -> UniformShape:
    config: Any = model.config
    adapter = adapter_of(model)
    if adapter.stock is None:
        check_family(str(config.model_type))
        return UniformShape(groups=())
    return UniformShape(groups=adapter.layer_groups(model), heads=adapter.stock_heads(config))
