"""What works for which family and task: the cases, and how each is checked.

``check`` goes through one case on a tiny model with random weights. ``STATED`` holds what does not
work, by family, task and step, with a part of the error that says so. ``scripts/make_matrix.py``
runs all cases and writes docs/matrix.md; test_matrix.py runs a few always and all as slow tests.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tiny import (
    IMAGE_FAMILIES,
    TEXT_FAMILIES,
    tiny_batch,
    tiny_image_processor,
    tiny_model,
    tiny_tokenizer,
)
from transformers import TrainerCallback, TrainingArguments

from hfprune import HFPruneTrainer, PruningConfig
from hfprune.core.errors import HFPruneError
from hfprune.core.kinds import gives_embeddings
from hfprune.core.tasks import problem_type_of
from hfprune.deploy.exporters.exporting import export_onnx
from hfprune.deploy.quantize.quantizing import quantize_onnx
from hfprune.deploy.runtimes.onnxruntime import OnnxClassifier
from hfprune.families import block_views, model_sizes
from hfprune.models.checkpoint import from_pretrained
from hfprune.models.embedding import as_embedder_
from hfprune.models.layout import usual_layout
from hfprune.models.sentences import load_embedder
from hfprune.pruning.cost import parameter_costs
from hfprune.pruning.gates import Gates
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.reconstruction.reconstruct import prune_without_training
from hfprune.pruning.search import plan_sparsity
from hfprune.pruning.surgery import shrink_
from hfprune.recipe.sections.export import QuantizationConfig

TEXT_TASKS = (
    "single_label_classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "reranking",
    "sentence_embedding",
)
TASKS = (*TEXT_TASKS, "image_classification")
METHODS = ("gates", "reconstruction", "keep_layers")
# After the methods, on the model that gates left.
EXPORTS = ("ONNX", "int8")
STEPS = (*METHODS, *EXPORTS)

# (family, task, step): part of the error.
STATED: dict[tuple[str, str, str], str] = {
    (family, "token_classification", step): "doesn't support task token-classification"
    for family in ("llama", "qwen3")
    for step in ("ONNX", "int8")
}

INTRODUCTION = """\
# What works for which family and task

Written by `scripts/make_matrix.py`, which runs every case on a tiny model with random weights
(`tests/matrix.py`; transformers 4.57 with Optimum).

A *yes* under a method says that the model was pruned, that the saved model loads again with
bit-equal logits, and (where gates can say it: `gates`, `keep_layers`) that the gated and the shrunk
model give the same logits. ONNX: the export of the model that gates left agrees with PyTorch to
1e-4. int8: it is quantized, runs, and is within 1.0 of those logits. A number leads to the error.

`gates`: pruned by `HFPruneTrainer` while it trains. `reconstruction`: without training.
`keep_layers`: one layer dropped whole. `deberta-v3` is the model type `deberta-v2` in v3's form."""
REFUSED = """
## Refused for every task

- Longformer: its attention reshapes the heads' outputs to the hidden size, so it cannot run with
  fewer heads without a copy of its code.
- BigBird: which blocks a head attends to at random depends on the head's index.
- DeBERTa v1, encoder-decoders, mixtures of experts: no adapter.
"""


def cases() -> Iterator[tuple[str, str]]:
    """Every family with every task that it can have."""
    for task in TASKS:
        families = IMAGE_FAMILIES if task == "image_classification" else TEXT_FAMILIES
        for family in families:
            yield family, task


def check(family: str, task: str) -> dict[str, str]:
    """Go through one case.

    Returns:
        For each step "yes", or the error that hfprune raised on purpose. All else is raised.
    """
    found = {}
    exported: Any = None
    for method in METHODS:
        try:
            model = _pruned(family, task, method)
            _reloads(model, family)
            found[method] = "yes"
        except HFPruneError as error:
            found[method] = str(error)
        else:
            exported = exported or model
    with tempfile.TemporaryDirectory() as name:
        processor = tiny_image_processor() if family in IMAGE_FAMILIES else tiny_tokenizer()
        for step in EXPORTS:
            if found.get("ONNX", "yes") != "yes":  # nothing to quantize
                found[step] = found["ONNX"]
                continue
            try:
                if step == "ONNX":
                    _agrees(exported, export_onnx(exported, processor, Path(name)), family, 1e-4)
                else:
                    file = quantize_onnx(Path(name), QuantizationConfig())
                    _agrees(exported, file, family, 1.0)
                found[step] = "yes"
            except HFPruneError as error:
                found[step] = str(error)
    return found


def table(results: dict[tuple[str, str], dict[str, str]]) -> str:
    """docs/matrix.md; ``results`` as :func:`check` gives them, by family and task."""
    lines = [INTRODUCTION]
    notes: dict[str, int] = {}
    for task in TASKS:
        lines += ["", f"## `{task}`", "", f"| family | {' | '.join(STEPS)} |"]
        lines.append(f"|---|{'---|' * len(STEPS)}")
        for family, of in cases():
            if of == task:
                cells = []
                for step in STEPS:
                    said = results[family, task][step]
                    number = notes.setdefault(said, len(notes) + 1) if said != "yes" else 0
                    cells.append(f"no [{number}]" if number else "yes")
                lines.append(f"| `{family}` | {' | '.join(cells)} |")
    if notes:
        lines += ["", "## Errors", ""]
        lines += [f"{number}. {said}" for said, number in notes.items()]
    lines += [REFUSED]
    return "\n".join(lines)


# -- one case ---------------------------------------------------------------------------------


def case_model(family: str, task: str) -> Any:
    """A model for a task, without dropout."""
    labels = 1 if task in ("regression", "reranking") else 3
    tokens = task == "token_classification"
    model = tiny_model(family, labels=labels, tokens=tokens)
    if task == "sentence_embedding":
        model = as_embedder_(model.base_model, usual_layout(".", "mean", True, 32))
    elif task in TEXT_TASKS and task != "token_classification":
        model.config.problem_type = problem_type_of(task)
    if family not in IMAGE_FAMILIES and model.config.pad_token_id is None:
        model.config.pad_token_id = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def rows(family: str, task: str, count: int = 8) -> list[dict[str, Any]]:
    """Training rows of one length, with labels."""
    batch = tiny_batch(count, family=family, padded=False)
    generator = torch.Generator().manual_seed(3)
    labels: Any = {
        "multi_label_classification": torch.randint(0, 2, (count, 3), generator=generator).float(),
        "regression": torch.randn(count, generator=generator),
        "token_classification": torch.randint(0, 3, (count, 12), generator=generator),
        "reranking": torch.linspace(0, 1, count)[:, None],
        "sentence_embedding": torch.randn(count, 32, generator=generator),
    }.get(task, torch.randint(0, 3, (count,), generator=generator))
    of_query = [{"query_row": row // 4} if task == "reranking" else {} for row in range(count)]
    return [
        {**{name: value[row] for name, value in batch.items()}, "labels": labels[row], **more}
        for row, more in enumerate(of_query)
    ]


@torch.no_grad()
def _logits(model: Any, family: str, seed: int = 5) -> torch.Tensor:
    batch = tiny_batch(3, 9, family=family, seed=seed)
    logits: torch.Tensor = model.eval()(**batch).logits
    # Of tokens, what stands at padding is read by nobody.
    return logits[batch["attention_mask"].bool()] if logits.dim() == 3 else logits


class _Gated(TrainerCallback):
    """Keeps the logits of the gated model at the end of the training."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.logits: torch.Tensor | None = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.logits = _logits(model, self.family)
        model.train()


def _pruned(family: str, task: str, method: str) -> Any:
    model = case_model(family, task)
    dense = PruningPlan.dense(model_sizes(model))
    costs = parameter_costs(model)
    if method == "gates":
        gated = _Gated(family)
        with tempfile.TemporaryDirectory() as name:
            trainer = HFPruneTrainer(
                model,
                TrainingArguments(
                    name,
                    max_steps=3,
                    per_device_train_batch_size=4,
                    learning_rate=1e-3,
                    use_cpu=True,
                    report_to=[],
                    save_strategy="no",
                    disable_tqdm=True,
                    remove_unused_columns=False,
                ),
                train_dataset=rows(family, task),
                callbacks=[gated],
                pruning=PruningConfig(
                    sparsity=0.5, start=0.3, end=0.6, update_every_steps=1, min_neurons=4
                ),
            )
            trainer.train()
            model = trainer.model.eval()
            plan = trainer.plan
        same(_logits(model, family), gated.logits)
        reached = plan is not None and plan_sparsity(plan, costs) >= 0.5
        require(reached, "the target was not reached")
        return model
    if method == "keep_layers":
        sizes = model_sizes(model)
        kept = [size if layer != 1 else (0, 0) for layer, size in enumerate(sizes)]
        plan = PruningPlan.first_units(sizes, kept)
        with Gates(model, plan):
            want = _logits(model, family)
        shrink_(model, plan)
        same(_logits(model, family), want)
        return model
    total = sum(costs[key] * view.units for key, view in block_views(model).items())
    before = copy.deepcopy(model)
    batches = [tiny_batch(4, 9, family=family, seed=seed) for seed in (1, 2)]
    prune_without_training(
        model,
        before,
        batches,
        0.6 * total,
        lambda key, count: costs[key] * count,
        rounds=1,
    )
    left = sum(costs[key] * view.units for key, view in block_views(model).items())
    require(left <= 0.6 * total, f"{left / total:.2f} of the weights are left, allowed are 0.6")
    require(model_sizes(model) != dense.sizes(), "nothing was pruned")
    return model


def _reloads(model: Any, family: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        model.save_pretrained(name)
        again = load_embedder(name) if gives_embeddings(model) else from_pretrained(name)
    require(type(again) is type(model), f"{type(again).__name__} came back")
    require(torch.equal(_logits(again, family), _logits(model, family)), "other logits came back")


def _agrees(model: Any, file: Path, family: str, tolerance: float) -> None:
    batch = tiny_batch(3, 9, family=family, seed=6)
    found = torch.from_numpy(
        OnnxClassifier(file).logits({name: value.numpy() for name, value in batch.items()})
    )
    with torch.no_grad():
        want = model(**batch).logits
    if want.dim() == 3:
        real = batch["attention_mask"].bool()
        found, want = found[real], want[real]
    torch.testing.assert_close(found, want, atol=tolerance, rtol=0)


def same(found: torch.Tensor, want: torch.Tensor | None) -> None:
    """Equal up to rounding."""
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def require(held: bool, otherwise: str) -> None:
    """An assertion that also holds where the script runs with ``python -O``."""
    if not held:
        raise AssertionError(otherwise)
