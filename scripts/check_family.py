"""Check an adapter, new or old, on a tiny random model: what CONTRIBUTING asks of every family.

    python scripts/check_family.py bert
    python scripts/check_family.py my-type hidden_size=32 num_hidden_layers=3 \\
        num_attention_heads=4 intermediate_size=48 vocab_size=100 pad_token_id=1

The first form takes the tiny config of tests/tiny.py; the second makes one of the model type and
the keys given (for texts), to try an adapter before it has a line there. Each check prints one
line; the first failure says where to look. Exit status 1 if any fails.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # where it is loaded by its path
from scripting import parser_of

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("family", help="a family of tests/tiny.py, or a model type")
    parser.add_argument("keys", nargs="*", metavar="key=value", help="of the config")
    parser.add_argument(
        "--no-onnx", action="store_true", help="leave the export out, which is slow"
    )
    options = parser.parse_intermixed_args(arguments)

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    checks = Checks(options.family, dict(key.split("=", 1) for key in options.keys))
    todo: list[tuple[str, str, Callable[[], None]]] = [
        ("the adapter is registered", "BUILT_IN in families/registry.py", checks.registered),
        ("views have the sizes of the config", "units and unit_size", checks.sizes),
        (
            "unit_parameters are what leaves with a unit",
            "producers (parts, unit_size) and the consumer",
            checks.parameters,
        ),
        (
            "gated equals shrunk, uneven",
            "which rows and columns are a unit, and set_units",
            checks.uneven,
        ),
        ("gated equals shrunk, blocks removed", "skips: what flows on", checks.removed),
        ("gated equals shrunk, a layer removed", "skips of both blocks together", checks.layer),
        ("hidden states are those of the gated model", "skips and stream", checks.hidden),
        ("shrinking twice equals once", "set_units after a first shrink", checks.twice),
        (
            "nothing is left of a layer without blocks",
            "discards: norms, first halves",
            checks.empty,
        ),
        ("gate gradients are those of finite differences", "the consumer", checks.gradients),
        (
            "a saved model loads again bit for bit",
            "markers, buffers that hold indices",
            checks.reload,
        ),
        ("plain transformers refuses a shrunk model", "the names of markers", checks.refused),
        ("pruning without training mends outputs", "stream and consumer", checks.reconstruction),
    ]
    if not options.no_onnx:
        todo.append(("the ONNX export agrees", "attributes that the tracer reads", checks.onnx))
    failed = 0
    for name, look, do in todo:
        try:
            do()
        except Exception as error:  # whatever an adapter under work may raise
            failed += 1
            print(
                f"FAILED  {name}\n        look at: {look}\n        {type(error).__name__}: {error}"
            )
            if failed == 1:
                traceback.print_exc()
        else:
            print(f"ok      {name}")
    print(f"{failed} of {len(todo)} checks failed" if failed else "all checks passed")
    return int(failed > 0)


class Checks:
    """Each method is one check and raises if it fails."""

    def __init__(self, family: str, keys: dict[str, str]) -> None:
        self.family = family
        self.keys = {key: _value(text) for key, text in keys.items()}

    def model(self) -> Any:
        import tiny
        import torch
        import transformers

        if not self.keys:
            return tiny.tiny_model(self.family)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(self.family, num_labels=3, **self.keys)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():  # zero biases would hide mistakes
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return model.eval()

    def outputs(self, model: Any, seed: int = 1, hidden: bool = False) -> Any:
        import tiny
        import torch

        batch = tiny.tiny_batch(family=self.family, seed=seed)
        with torch.no_grad():
            return model(**batch, output_hidden_states=hidden)

    def plan(self, model: Any, *removed: Any) -> Any:
        """Every block loses units, not the same ones in each layer; some lose all."""
        from hfprune.families import model_sizes
        from hfprune.pruning.plan import PruningPlan

        plan = PruningPlan.dense(model_sizes(model))
        for key in plan.keys():
            step = 2 + key.layer % 2
            units = range(len(plan.mask(key)))
            kept = [key not in removed and (i + key.layer) % step > 0 for i in units]
            plan = plan.with_block(key, kept)
        return plan

    def registered(self) -> None:
        from hfprune.families import adapter_of

        adapter_of(self.model())

    def sizes(self) -> None:
        from hfprune.families import block_views, model_sizes

        model = self.model()
        sizes = model_sizes(model)
        if not sizes or any(units < 2 for layer in sizes for units in layer):
            raise AssertionError(f"expected two units or more in each block, got {sizes}")
        for key, view in block_views(model).items():
            width = view.weight.shape[1]
            if view.units * view.unit_size != width:
                raise AssertionError(
                    f"{key}: {view.units} units of {view.unit_size} columns, but the consumer has "
                    f"{width} columns"
                )
            for producer in view.producers:
                rows = producer.parts * view.units * producer.unit_size
                if rows != producer.weight.shape[0]:
                    raise AssertionError(
                        f"{key}: a producer has {producer.weight.shape[0]} rows, not {rows}"
                    )

    def parameters(self) -> None:
        from hfprune.families import block_views
        from hfprune.pruning.surgery import shrink_

        model = self.model()
        plan = self.plan(model)
        views = block_views(model)
        gone = sum(
            views[key].unit_parameters() * (views[key].units - len(plan.kept(key))) for key in views
        )
        before = sum(p.numel() for p in model.parameters())
        shrink_(model, plan)
        left = sum(p.numel() for p in model.parameters())
        if before - left != gone:
            raise AssertionError(f"{before - left} parameters left the model, expected {gone}")

    def _gated_and_shrunk(self, *removed: Any, hidden: bool = False) -> tuple[Any, Any, Any]:
        from hfprune.pruning.gates import Gates
        from hfprune.pruning.surgery import shrink_

        model = self.model()
        plan = self.plan(model, *removed)
        with Gates(model, plan):
            want = self.outputs(model, hidden=hidden)
        shrink_(model, plan)
        return model, self.outputs(model, hidden=hidden), want

    def uneven(self) -> None:
        _, found, want = self._gated_and_shrunk()
        _same(found.logits, want.logits)

    def removed(self) -> None:
        from hfprune.families.blocks import BlockKey

        for key in (BlockKey(1, "attention"), BlockKey(1, "ffn"), BlockKey(0, "attention")):
            _, found, want = self._gated_and_shrunk(key)
            _same(found.logits, want.logits)

    def layer(self) -> None:
        _, found, want = self._gated_and_shrunk(*_blocks(1))
        _same(found.logits, want.logits)

    def hidden(self) -> None:
        _, found, want = self._gated_and_shrunk(*_blocks(1), hidden=True)
        if len(found.hidden_states) != len(want.hidden_states):
            raise AssertionError(
                f"{len(found.hidden_states)} hidden states, expected {len(want.hidden_states)}"
            )
        for mine, theirs in zip(found.hidden_states, want.hidden_states, strict=True):
            _same(mine, theirs)

    def twice(self) -> None:
        from hfprune.families import model_sizes
        from hfprune.pruning.plan import PruningPlan
        from hfprune.pruning.surgery import shrink_

        model = self.model()
        sizes = model_sizes(model)
        small = [(1, 1)] * len(sizes)
        once = shrink_(copy.deepcopy(model), PruningPlan.first_units(sizes, small))
        middle = [(max(1, h - 1), max(1, n // 2)) for h, n in sizes]
        shrink_(model, PruningPlan.first_units(sizes, middle))
        shrink_(model, PruningPlan.first_units(model_sizes(model), small))
        _same(self.outputs(model).logits, self.outputs(once).logits)

    def empty(self) -> None:
        from hfprune.families import adapter_of
        from hfprune.pruning.surgery import shrink_

        model = self.model()
        shrink_(model, self.plan(model, *_blocks(1)))
        left = [n for n, _ in adapter_of(model).layers(model)[1].named_parameters()]
        if left:
            raise AssertionError(f"still there: {', '.join(left)}")

    def gradients(self) -> None:
        import torch

        from hfprune.pruning.gates import Gates

        model = self.model().double()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        gates = Gates(model)
        gates.set_trainable(True)
        import tiny

        batch = {
            name: value.double() if value.is_floating_point() else value
            for name, value in tiny.tiny_batch(family=self.family).items()
        }
        with gates:
            model(**batch).logits.sum().backward()
            for key, gate in gates.values.items():
                slope = float(gate.grad[0])
                values = []
                for step in (1e-3, -1e-3):
                    with torch.no_grad():
                        gate[0] += step
                        values.append(float(model(**batch).logits.sum()))
                        gate[0] -= step
                finite = (values[0] - values[1]) / 2e-3
                if abs(slope - finite) > 1e-2 * max(1.0, abs(finite)):
                    raise AssertionError(f"{key}: {slope:.6f}, by finite differences {finite:.6f}")

    def reload(self) -> None:
        import torch

        import hfprune
        from hfprune.pruning.surgery import shrink_

        model = self.model()
        shrink_(model, self.plan(model, *_blocks(1)[:1]))
        with tempfile.TemporaryDirectory() as name:
            model.save_pretrained(name)
            again = hfprune.from_pretrained(name)
        if not torch.equal(self.outputs(again).logits, self.outputs(model).logits):
            raise AssertionError("the loaded model gives other logits")

    def refused(self) -> None:
        from hfprune.families import model_sizes
        from hfprune.pruning.plan import PruningPlan
        from hfprune.pruning.surgery import shrink_

        # Uneven sizes, then each block gone and all else whole: the marker alone must stop it.
        for removed in (None, *_blocks(1)):
            model = self.model()
            plan = PruningPlan.dense(model_sizes(model))
            if removed is None:
                plan = self.plan(model)
            else:
                plan = plan.with_block(removed, [False] * len(plan.mask(removed)))
            shrink_(model, plan)
            with tempfile.TemporaryDirectory() as name:
                model.save_pretrained(name)
                # The config stops it with a word; whoever passes that by, the marker.
                for options in ({}, {"attn_implementation": "eager"}):
                    try:
                        type(model).from_pretrained(name, **options)
                    except RuntimeError:
                        continue
                    except ValueError as error:
                        if not options and "hfprune.from_pretrained" in str(error):
                            continue
                        raise
                    raise AssertionError(
                        f"without {removed or 'some units'} transformers loads it and fills what "
                        "is missing with random numbers"
                    )

    def reconstruction(self) -> None:
        import tiny

        from hfprune.families import block_views
        from hfprune.pruning.cost import parameter_costs
        from hfprune.pruning.reconstruction.reconstruct import prune_without_training

        model = self.model()
        costs = parameter_costs(model)
        total = sum(costs[key] * view.units for key, view in block_views(model).items())
        batches = [tiny.tiny_batch(family=self.family, seed=seed) for seed in (1, 2)]
        prune_without_training(
            model, self.model(), batches, 0.7 * total, lambda k, n: costs[k] * n, rounds=1
        )
        left = sum(costs[key] * view.units for key, view in block_views(model).items())
        if left > 0.7 * total:
            raise AssertionError(f"{left / total:.2f} of the weights are left, allowed are 0.7")

    def onnx(self) -> None:
        import tiny

        from hfprune.deploy.exporters.exporting import export_onnx
        from hfprune.pruning.surgery import shrink_

        model = self.model()
        if self.family in tiny.IMAGE_FAMILIES:
            processor = tiny.tiny_image_processor()
        else:
            processor = tiny.tiny_tokenizer()
            if model.config.pad_token_id is None:
                model.config.pad_token_id = 0
        shrink_(model, self.plan(model, *_blocks(1)[:1]))
        with tempfile.TemporaryDirectory() as name:
            export_onnx(model, processor, name)  # compares with PyTorch itself


def _blocks(layer: int) -> tuple[Any, Any]:
    from hfprune.families.blocks import BlockKey

    return BlockKey(layer, "attention"), BlockKey(layer, "ffn")


def _same(found: Any, want: Any) -> None:
    import torch

    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def _value(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


if __name__ == "__main__":
    sys.exit(main())
