"""What a model is made of: layers, heads, neurons, parameters, work; what was pruned, what can be.

:func:`inspect` reads a directory or a model and changes nothing. Its result is plain data, and
:func:`tables` shows it to a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from hfprune.core.errors import UnsupportedModelError
from hfprune.core.kinds import (
    EMBEDDING,
    gives_embeddings,
    image_tokens,
    kind_of_model,
    takes_images,
    task_by,
)
from hfprune.core.reading import read_json
from hfprune.core.tasks import WITHOUT_CLASSES
from hfprune.core.text import cell, markup
from hfprune.families import BlockView, adapter_of, layer_views, model_sizes
from hfprune.measure.sizes import count_macs, count_parameters
from hfprune.models.cross_encoder import task_in
from hfprune.models.folders import model_folder
from hfprune.models.layout import NEW_MODES, SentenceLayout, layout_or_note
from hfprune.models.pooling import later_modules, width_after
from hfprune.models.saved import is_encoder, load_saved
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.search import plan_sparsity
from hfprune.pruning.surgery import RECORD_KEY

# Files whose sizes are told: weights and graphs.
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.onnx", "*.onnx_data", "*.onnx.data")
SEQUENCE_LENGTH = 128
PLAN_FILE = "plan.json"  # as the pipeline writes it, which stands above


@dataclass(frozen=True)
class LayerReport:
    """One layer (of models that share weights: one group).

    Attributes:
        layer: its index.
        heads, neurons: units now, 0 where the block has been removed. With grouped queries heads
            are key-value heads.
        of_heads, of_neurons: units of the dense model; equal to the above where nothing was pruned.
        head_size: columns of the output projection that belong to one head, 0 without attention.
        parameters: of the layer, norms and output biases included.
        attention_parameters, ffn_parameters: those that leave if all heads, or all neurons, do.
        macs: multiply-accumulates of the layer's blocks in one forward pass, all uses together.
        uses: how often a forward pass runs the layer.
    """

    layer: int
    heads: int
    of_heads: int
    head_size: int
    neurons: int
    of_neurons: int
    parameters: int
    attention_parameters: int
    ffn_parameters: int
    macs: int
    uses: int


@dataclass(frozen=True)
class Inspection:
    """A model in numbers; :meth:`to_dict` is JSON-ready.

    Attributes:
        model_type: of the config.
        architecture: name of its class in transformers.
        task: as Optimum and pipelines name it.
        predicts: the task as recipes spell it; ``None`` for an encoder without a head, whose folder
            says nothing of pooling.
        labels: the names of the classes, in order; empty where there are none.
        pooling: of a sentence encoder, as ``model.pooling`` of recipes spells it.
        normalize: whether its embeddings are scaled to length 1.
        embedding_size: how many numbers one has.
        pruned: whether hfprune shrank it.
        sparsity: fraction, in [0, 1], of the dense encoder's prunable weights that is gone.
        parameters: ``total``, ``encoder``, ``embeddings``.
        prunable_parameters: those of all heads and neurons left, which pruning can still remove.
        vocabulary: rows of the table of token embeddings, ``None`` for images.
        hidden_size: width of the residual stream, which is never pruned.
        macs: multiply-accumulates of one input, in all (see ``measure.sizes.count_macs``).
        sequence_length: tokens of that input.
        layers: one entry a layer.
        files: bytes of each file of weights in the directory; empty for a model in memory.
    """

    model_type: str
    architecture: str
    task: str
    predicts: str | None
    labels: tuple[str, ...]
    pooling: str | None
    normalize: bool | None
    embedding_size: int | None
    pruned: bool
    sparsity: float
    parameters: dict[str, int]
    prunable_parameters: int
    vocabulary: int | None
    hidden_size: int
    macs: int
    sequence_length: int
    layers: tuple[LayerReport, ...]
    files: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        layers = [asdict(layer) for layer in self.layers]
        return {**asdict(self), "labels": list(self.labels), "layers": layers}


def inspect(model: nn.Module | str | Path, *, sequence_length: int | None = None) -> Inspection:
    """Look into a model.

    Args:
        model: a transformers model, or a directory (or Hub name) of one, dense or shrunk.
        sequence_length: tokens of the input whose work is counted; ``None``: 128, or what the
            model takes if that is less. Not for images, which make a fixed number of tokens.

    Raises:
        UnsupportedModelError: for a family without an adapter.
        CheckpointError: for a directory that holds no model that can be loaded.
        HFPruneError: if the model does not take inputs of this length.
    """
    files: dict[str, int] = {}
    plan: PruningPlan | None = None
    place: Path | None = None
    if isinstance(model, nn.Module):
        loaded: Any = model
    else:
        place = Path(model_folder(str(model)))
        loaded = load_saved(str(place))
        files = _files(Path(model))
        plan = _plan_beside(Path(model))
    adapter_of(loaded)
    config: Any = loaded.config
    images = takes_images(loaded)
    length = image_tokens(config) if images else sequence_length or _usual_length(config)
    with torch.device("meta"):
        dense = type(loaded)(config)
    totals, kept = model_sizes(dense), model_sizes(loaded)
    record = getattr(config, RECORD_KEY, None)
    sparsity = _sparsity(dense, totals, kept, record)
    if plan is not None and record is None:
        # Its config says what it is and not what it was: the plan of the run does.
        sizes = [size for size in plan.sizes() if any(size)]
        if tuple(sizes) == kept:
            totals = tuple(
                total for total, size in zip(plan.totals(), plan.sizes(), strict=True) if any(size)
            )
            sparsity = _of_plan(dense, plan)
    layers = tuple(_layers(loaded, totals, length))
    return Inspection(
        model_type=str(config.model_type),
        architecture=type(loaded).__name__,
        **_said(loaded, place),
        pruned=record is not None or sparsity > 0,
        sparsity=round(sparsity, 6),
        parameters=count_parameters(loaded),
        prunable_parameters=sum(e.attention_parameters + e.ffn_parameters for e in layers),
        vocabulary=None if images else int(loaded.get_input_embeddings().num_embeddings),
        hidden_size=int(config.hidden_size),
        macs=count_macs(loaded, sequence_length if images else length),
        sequence_length=length,
        layers=layers,
        files=files,
    )


def _said(model: Any, folder: Path | None) -> dict[str, Any]:
    """What a model gives, as its class, its config and the modules of its folder say."""
    layout: SentenceLayout | None = None
    if gives_embeddings(model):
        layout = model.sentence_layout
    elif folder is not None and is_encoder(folder):
        layout = layout_or_note(folder)[0]
    bare = layout is None and getattr(model, "base_model", model) is model
    kind = EMBEDDING if bare or layout is not None else kind_of_model(model)
    predicts = None if bare else task_by(kind, model.config)
    if predicts is not None and folder is not None:
        predicts = task_in(folder, predicts)
    names = model.config.id2label if predicts not in (None, *WITHOUT_CLASSES) else {}
    said = {
        "task": kind.export_task,
        "predicts": predicts,
        "labels": tuple(str(names[number]) for number in sorted(names)),
        "pooling": None,
        "normalize": None,
        "embedding_size": None,
    }
    if layout is None:
        return said
    return said | {
        "pooling": next(name for name, mode in NEW_MODES.items() if mode == layout.pooling),
        "normalize": layout.normalize,
        "embedding_size": width_after(later_modules(layout), int(model.config.hidden_size)),
    }


def _sparsity(
    dense: nn.Module,
    totals: Sequence[tuple[int, int]],
    kept: Sequence[tuple[int, int]],
    record: Any,
) -> float:
    """Of the dense encoder's prunable weights, those of layers that left the model included."""
    gone = plan_sparsity(PruningPlan.first_units(totals, kept), parameter_costs(dense))
    before = record.get("of_layers") if isinstance(record, Mapping) else None
    if type(before) is not int or before <= len(totals):
        return gone
    return 1.0 - (1.0 - gone) * len(totals) / before


def _plan_beside(folder: Path) -> PruningPlan | None:
    """The plan that a run left beside its model."""
    file = folder / PLAN_FILE
    return PruningPlan.from_dict(read_json(file)) if file.is_file() else None


def _of_plan(model: nn.Module, plan: PruningPlan) -> float:
    """The fraction that a plan removes, of layers that were all like a model's first."""
    costs = {key.kind: cost for key, cost in parameter_costs(model).items()}
    return plan_sparsity(plan, {key: costs[key.kind] for key in plan.keys()})


def tables(found: Inspection) -> list[Table]:
    """What was found, for a terminal: the layers, and below them the whole and the files."""
    what = "an encoder without a head" if found.predicts is None else found.predicts
    of = f" of {found.model_type}, {what.replace('_', ' ')}"
    title = f"{found.architecture}{'' if not found.pruned else ', pruned'}{of}"
    layers = Table(title=markup(title))
    for name in ("layer", "heads", "neurons", "parameters", "can be pruned", "MACs"):
        layers.add_column(name, justify="right")
    for entry in found.layers:
        prunable = entry.attention_parameters + entry.ffn_parameters
        layers.add_row(
            f"{entry.layer}{f' (x{entry.uses})' if entry.uses > 1 else ''}",
            _of(entry.heads, entry.of_heads),
            _of(entry.neurons, entry.of_neurons),
            f"{entry.parameters:,}",
            f"{prunable:,}",
            f"{entry.macs:,}",
        )
    whole = Table(show_header=False)
    rows = {
        "parameters": f"{found.parameters['total']:,}",
        "in the encoder": f"{found.parameters['encoder']:,}",
        "in embeddings": f"{found.parameters['embeddings']:,}",
        "can be pruned": f"{found.prunable_parameters:,}",
        "pruned so far": f"{found.sparsity:.1%} of the encoder's weights",
        "hidden size": f"{found.hidden_size:,}",
        "vocabulary": "none" if found.vocabulary is None else f"{found.vocabulary:,}",
        **_given(found),
        f"MACs at {found.sequence_length} tokens": f"{found.macs:,}",
        **{name: f"{size / 1e6:.2f} MB" for name, size in found.files.items()},
    }
    for name, text in rows.items():
        whole.add_row(cell(name), cell(text))
    return [layers, whole]


def _given(found: Inspection) -> dict[str, str]:
    """What the model gives, in words, by what they are about; nothing of one number."""
    if found.pooling is not None:
        scaled = ", scaled to length 1" if found.normalize else ""
        return {"embedding": f"{found.embedding_size:,} numbers, {found.pooling} pooling{scaled}"}
    if not found.labels:
        return {}
    more = ", ..." if len(found.labels) > 10 else ""
    return {"labels": ", ".join(found.labels[:10]) + more}


def _of(kept: int, total: int) -> str:
    return f"{kept:,}" if kept == total else f"{kept:,} of {total:,}"


def _files(folder: Path) -> dict[str, int]:
    found = sorted({path for pattern in WEIGHT_FILES for path in folder.rglob(pattern)})
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def _usual_length(config: Any) -> int:
    # Some families begin to count positions after the padding index.
    longest = (getattr(config, "max_position_embeddings", None) or SEQUENCE_LENGTH + 2) - 2
    return int(max(1, min(SEQUENCE_LENGTH, longest)))


def _layers(model: Any, totals: Sequence[tuple[int, int]], length: int) -> Iterator[LayerReport]:
    modules = adapter_of(model).layers(model)
    if len(modules) != len(totals):
        raise UnsupportedModelError(
            f"the model has {len(modules)} layers, its config builds {len(totals)}"
        )
    for index, (layer, module) in enumerate(zip(layer_views(model), modules, strict=True)):
        attention, ffn = layer.attention, layer.ffn
        yield LayerReport(
            layer=index,
            heads=attention.units if attention else 0,
            of_heads=totals[index][0],
            head_size=attention.unit_size if attention else 0,
            neurons=ffn.units if ffn else 0,
            of_neurons=totals[index][1],
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            attention_parameters=_parameters(attention),
            ffn_parameters=_parameters(ffn),
            macs=sum(_macs(view, length) for view in (attention, ffn) if view),
            uses=max((view.uses for view in (attention, ffn) if view), default=1),
        )


def _parameters(view: BlockView | None) -> int:
    return view.units * view.unit_parameters() if view else 0


def _macs(view: BlockView, length: int) -> int:
    """Of one block: its projections, and the two products of attention."""
    weights = view.weight.numel() + sum(p.weight.numel() for p in view.producers)
    mixing = 2 * length**2 * view.weight.shape[1] if view.key.kind == "attention" else 0
    return int(view.uses * (length * weights + mixing))
