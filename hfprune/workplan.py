"""What a run will do, in words; for dry runs, so it imports nothing heavy."""

from __future__ import annotations

from hfprune.recipe import Recipe


def describe(recipe: Recipe) -> list[str]:
    """The stages that a run of this recipe goes through, one line each. Reads no model, no data."""
    training, pruning = recipe.training, recipe.pruning
    source = recipe.data.name or recipe.data.train_file
    amount = (
        f"{training.max_steps} steps"
        if training.max_steps > 0
        else f"{training.num_train_epochs:g} epochs"
    )
    teacher = recipe.teacher
    if teacher.name_or_path is not None:
        first = f"teacher: {teacher.name_or_path}, used as it is"
    else:
        epochs = teacher.num_train_epochs or training.num_train_epochs
        rate = teacher.learning_rate or training.learning_rate
        first = (
            f"teacher: fine-tune {recipe.model.name_or_path} for {epochs:g} epochs, learning rate "
            f"{rate:g}"
        )
    lines = [
        f"data: {source}, {recipe.task}, at most {recipe.data.max_length} tokens",
        first,
        f"prune: {pruning.sparsity:.0%} of the encoder's weights, {pruning.score} scores, "
        f"{pruning.allocation} allocation, {pruning.schedule} schedule, while training for {amount}"
        + (" with distillation" if recipe.distillation else ""),
        "shrink: remove heads, neurons and blocks physically",
    ]
    if recipe.recovery.num_train_epochs > 0:
        lines.append(
            f"recover: train the small model for {recipe.recovery.num_train_epochs:g} epochs"
        )
    lines.append(
        "export: ONNX float32"
        + (
            f" and int8 ({recipe.export.quantization.instruction_set})"
            if recipe.export.quantization
            else ""
        )
    )
    lines.append(f"evaluate: {', '.join(recipe.evaluation.metrics)} on the test split")
    benchmark = recipe.benchmark
    lines.append(
        f"benchmark: batch {benchmark.batch_sizes}, length {benchmark.sequence_lengths}, "
        f"{benchmark.threads} thread(s), {benchmark.repeats} rounds"
    )
    lines.append(f"write: {recipe.output_dir}")
    return lines
