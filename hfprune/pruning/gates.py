"""Gates: float multipliers on the input of each block's consumer Linear, by forward hooks.

A gate of 1 keeps a unit, 0 removes its contribution exactly. Gates live beside the model, not in
it: its modules, parameters and state dict stay as they were, and ``detach`` leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hfprune.core.errors import PlanError
from hfprune.families import PassOver, block_views, model_sizes
from hfprune.families.blocks import BlockKey
from hfprune.pruning.plan import PruningPlan


class Gates:
    """The gates of one model.

    Attributes:
        values: for each block a float32 tensor of shape ``(units,)``, 1 = kept, 0 = removed.

    Example::

        with Gates(model, plan):
            logits = model(**batch).logits  # equals those of shrink_(model, plan)
    """

    def __init__(self, model: nn.Module, plan: PruningPlan | None = None) -> None:
        self.views = block_views(model)
        self._sizes = model_sizes(model)
        parameter = next(model.parameters())
        self.values: dict[BlockKey, Tensor] = {
            key: torch.ones(view.units, device=parameter.device) for key, view in self.views.items()
        }
        self.plan = PruningPlan.dense(self._sizes)
        self._handles: list[RemovableHandle] = []
        self._closed: set[BlockKey] = set()
        self._partial: set[BlockKey] = set()
        self._trainable = False
        if plan is not None:
            self.set_plan(plan)

    def set_plan(self, plan: PruningPlan) -> None:
        """Set all gates to the plan's 0 and 1.

        Raises:
            PlanError: if the plan was made for other sizes.
        """
        plan.require_sizes(self._sizes)
        self.plan = plan
        self._closed = {key for key in self.views if plan.is_removed(key)}
        self._partial = {key for key in self.views if not all(plan.mask(key))}
        with torch.no_grad():
            for key, value in self.values.items():
                value.copy_(torch.tensor(plan.mask(key), dtype=torch.float32))

    def set_trainable(self, trainable: bool) -> None:
        """Whether backward passes leave gradients in ``values[key].grad``."""
        self._trainable = trainable
        for value in self.values.values():
            value.requires_grad_(trainable)
            value.grad = None

    def gradients(self) -> dict[BlockKey, Tensor]:
        """dLoss/dGate of each block, float32 ``(units,)``; zeros where none arrived."""
        return {
            key: torch.zeros_like(value) if value.grad is None else value.grad.detach().clone()
            for key, value in self.values.items()
        }

    def clear_gradients(self) -> None:
        for value in self.values.values():
            value.grad = None

    # -- hooks ----------------------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._handles)

    def attach(self) -> Gates:
        """Put the hooks on.

        Raises:
            PlanError: if they are on already.
        """
        if self._handles:
            raise PlanError("these gates are attached already; detach them first")
        for key, view in self.views.items():
            self._handles.append(view.consumer.register_forward_pre_hook(self._multiply(key)))
            for skip in view.skips:
                self._handles.append(
                    skip.module.register_forward_hook(
                        self._overrule(key, skip.replacement), with_kwargs=True
                    )
                )
        return self

    def detach(self) -> None:
        """Take the hooks off; the model computes as if there had been none."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Gates:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def _multiply(self, key: BlockKey) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        unit_size = self.views[key].unit_size

        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            if not self._trainable and key not in self._partial:
                return None
            features = args[0]  # (..., units * unit_size)
            gate = self.values[key]
            if gate.device != features.device:
                moved = gate.detach().to(features.device).requires_grad_(gate.requires_grad)
                gate = self.values[key] = moved
            gate = gate.to(features.dtype)
            if unit_size > 1:
                gate = gate.repeat_interleave(unit_size)
            return (features * gate, *args[1:])

        return hook

    def _overrule(self, key: BlockKey, replacement: PassOver) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
        ) -> Any:
            if key not in self._closed:
                return None
            passed = replacement(*args, **kwargs)
            computed = output[0] if isinstance(output, tuple) else output
            # Times zero, not dropped: every parameter stays in the autograd graph, as
            # DistributedDataParallel requires.
            if isinstance(passed, tuple):
                first = passed[0] + computed * 0.0
                return (first, *output[1:]) if isinstance(output, tuple) else first
            return passed + computed * 0.0

        return hook
