"""What a run will do, in words; for dry runs, so it imports nothing heavy."""

from __future__ import annotations

from hfprune.recipe.sections.pruning import PruningConfig
from hfprune.recipe.sections.whole import Recipe


def describe(recipe: Recipe) -> list[str]:
    """The stages that a run of this recipe goes through, one line each. Reads no model, no data."""
    training, pruning = recipe.training, recipe.pruning
    source = recipe.data.name or recipe.data.train_file
    if isinstance(source, list):
        source = f"{source[0]} and {len(source) - 1} more" if source[1:] else source[0]
    amount = (
        f"{training.max_steps} steps"
        if training.max_steps > 0
        else f"{training.num_train_epochs:g} epochs"
    )
    teacher, vocabulary = recipe.teacher, pruning.vocabulary
    if teacher.name_or_path is not None:
        first = f"teacher: {teacher.name_or_path}, used as it is"
    else:
        epochs = teacher.num_train_epochs or training.num_train_epochs
        rate = teacher.learning_rate or training.learning_rate
        first = (
            f"teacher: {recipe.model.name_or_path} as it is, and its embeddings of all texts"
            if recipe.task == "sentence_embedding"
            else f"teacher: fine-tune {recipe.model.name_or_path} for {epochs:g} epochs, "
            f"learning rate {rate:g}"
        )
        if teacher.num_seeds > 1:
            first += f"; {teacher.num_seeds} seeds, whose predictions are averaged to learn from"
    if teacher.learn_from:
        first += f"; learned from: {', '.join(teacher.learn_from)}"
    lines = [
        f"data: {source}, {recipe.task}{_length(recipe)}",
        first,
        *(
            [f"vocabulary: tokens that the training rows hold {vocabulary.min_count} times or more"]
            if vocabulary
            else []
        ),
        f"prune: {_target(recipe.pruning)}, "
        + (
            f"{pruning.score} scores, {pruning.schedule} schedule, while training for {amount}"
            + (" with distillation" if recipe.distillation else "")
            if pruning.by_gates
            else "the others dropped whole"
            if pruning.keep_layers is not None
            else f"by reconstruction ({pruning.selection}) on {pruning.scoring_samples} rows"
        ),
        "shrink: remove heads, neurons and blocks physically"
        + (", all layers that stay alike" if pruning.layout == "uniform" else ""),
    ]
    if recipe.recovery.trains:
        lines.append(
            f"recover: train the small model for {_epochs(recipe)}"
            + (", at the best of four rates" if recipe.recovery.learning_rate == "auto" else "")
        )
    if recipe.fits_temperature:
        lines.append("temperature: fitted on the validation rows, into the head where it helps")
    lines += _files(recipe)
    lines.append(f"evaluate: {', '.join(recipe.evaluation.metrics)} on the test split")
    benchmark = recipe.benchmark
    lines.append(
        f"benchmark: batch {benchmark.batch_sizes}, "
        + (f"length {benchmark.sequence_lengths}, " if benchmark.sequence_lengths else "")
        + ("the length of a pair, " if _pairs(recipe) else "")
        + f"{benchmark.threads} thread(s), {benchmark.repeats} rounds"
        + (", and the full table of shapes" if benchmark.full_table else "")
    )
    lines.append(f"write: {recipe.output_dir}")
    if recipe.hub.push_to_hub:
        branch = recipe.hub.hub_revision or "main"
        speeds = pruning.speedup if isinstance(pruning.speedup, list) else []
        names = [f"{recipe.hub.hub_model_id}-{speed:g}x" for speed in speeds]
        shown = ", ".join(names) or recipe.hub.hub_model_id
        lines.append(f"push: to {shown} on the Hub, branch {branch}")
    return lines


def _files(recipe: Recipe) -> list[str]:
    """What is written to be deployed."""
    export, deploy = recipe.export, recipe.deploy
    eight_bit = ""
    if export.quantization == "auto" and deploy is None:
        eight_bit = (
            f" and int8 (the fastest of what is tried in {export.quantization_seconds:g} s, "
            f"within {export.max_quantization_drop:g})"
        )
    elif export.quantization not in ("auto", None):
        eight_bit = f" and int8 ({export.quantization.instruction_set})"  # type: ignore[union-attr]
    lines = [f"export: ONNX float32{eight_bit}"]
    if deploy is not None and deploy.cpu == "here":
        lines.append(
            f"deploy: for {' and '.join(recipe.benchmark.uses)} the fastest file of "
            f"{', '.join(deploy.runtimes)}, in about {deploy.seconds:g} s a model, within "
            f"{export.max_quantization_drop:g} of float32"
        )
    elif deploy is not None:
        lines.append(f"deploy: what is usually fast on a CPU with {deploy.cpu}, not measured")
    return lines


def _pairs(recipe: Recipe) -> bool:
    return recipe.task == "reranking" and not recipe.benchmark.sequence_lengths


def _length(recipe: Recipe) -> str:
    data = recipe.data
    if recipe.task == "image_classification":
        return ""
    if data.stride is not None:
        return f", long texts in windows of {data.max_length} tokens that share {data.stride}"
    return f", at most {data.max_length} tokens"


def _target(pruning: PruningConfig) -> str:
    if pruning.sparsity is not None:
        return f"{pruning.sparsity:.0%} of the encoder's weights"
    if pruning.keep_layers is not None:
        return f"to layers {', '.join(map(str, pruning.keep_layers))}"
    if pruning.max_metric_drop is not None:
        return f"as far as the metric falls by at most {pruning.max_metric_drop:g}"
    speeds = pruning.speedup if isinstance(pruning.speedup, list) else [pruning.speedup]
    return f"to {', '.join(f'{speed:g}x' for speed in speeds)} measured speed-up"


def _epochs(recipe: Recipe) -> str:
    recovery = recipe.recovery
    once = f"{recovery.round_epochs:g} epochs"
    return (
        f"{once}, at most {recovery.max_rounds} times, while it helps"
        if recovery.in_rounds
        else once
    )
