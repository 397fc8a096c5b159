"""Forward passes over the same batches that begin at a layer, not at the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hfprune.families import adapter_of
from hfprune.pruning.reconstruction.common import Batch


class LayerPasses:
    """Passes of a model whose layers are looked at bottom-up, each many times.

    What a layer gives on a batch is kept, and given again by all layers up to it, so that fitting
    every layer in turn takes passes through a layer or two, not through all that lie below.

    Args:
        model: in eval mode. A layer may change as long as no pass has begun above it.
        batches: inputs, where the model is.
        limit: bytes that may be kept. Batches that find no room are passed from the inputs on, and
            so are all where layers do not run one after the other, each once.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], limit: float) -> None:
        adapter = adapter_of(model)
        self._model, self._batches = model, batches
        self._layers = list(adapter.layers(model))
        in_turn = list(adapter.order(model)) == list(range(len(self._layers)))
        self._left = limit if in_turn else 0.0
        self._begun = [0] * len(batches)  # the layers below have what they give in ``_given``
        self._given: list[Any] = [None] * len(batches)

    def run(self, index: int, layer: int) -> None:
        """Run the model on a batch, with its hooks from ``layer`` on; those below may be skipped.

        Args:
            index: of the batch.
            layer: the lowest that is looked at.
        """
        batch = self._batches[index]
        if self._begun[index] > layer:  # from the bottom again
            self._keep(index, 0, None)
        begun = self._begun[index]
        with _giving(self._layers[:begun], self._given[index]):
            if layer == begun:
                self._model(**batch)
                return
            with _output_of(self._layers[layer - 1]) as found:
                try:
                    self._model(**batch)
                finally:  # what looks at the layer ends the pass as soon as it has seen enough
                    if found:
                        self._keep(index, layer, found[0])

    def _keep(self, index: int, layer: int, given: Any) -> None:
        free = self._left + _size(self._given[index])
        self._begun[index], self._given[index], self._left = 0, None, free
        if given is not None and (size := _size(given)) <= free:
            self._begun[index], self._given[index], self._left = layer, given, free - size


@contextmanager
def _giving(layers: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Inside, these layers do nothing but give this."""
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


@contextmanager
def _output_of(layer: nn.Module) -> Iterator[list[Any]]:
    """What the layer gives during the pass inside, in a list of one; empty if it does not run."""
    found: list[Any] = []
    handle = layer.register_forward_hook(lambda _, args, output: found.append(_detached(output)))
    try:
        yield found
    finally:
        handle.remove()


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    return tuple(map(_detached, output)) if isinstance(output, tuple) else output


def _size(output: Any) -> float:
    """Bytes of the tensors in what a layer gave."""
    if isinstance(output, Tensor):
        return float(output.nbytes)
    return sum(map(_size, output)) if isinstance(output, tuple) else 0.0
