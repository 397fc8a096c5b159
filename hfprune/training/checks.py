"""What is refused before anything is trained."""

from __future__ import annotations

from typing import Any

from hfprune.core.errors import TrainingError
from hfprune.pruning.cost import LatencyTable
from hfprune.recipe.sections.pruning import PruningConfig


def check_target(pruning: PruningConfig, latency: LatencyTable | None) -> None:
    """Refuse targets that one training with gates cannot reach.

    Raises:
        TrainingError: naming what does it instead.
    """
    if pruning.method != "gates":
        raise TrainingError(
            "method: reconstruction prunes without training; call "
            "hfprune.pruning.reconstruction.reconstruct.prune_without_training, or use a recipe"
        )
    if pruning.vocabulary is not None:
        raise TrainingError(
            "the vocabulary is reduced before training, and the data tokenized anew; call "
            "hfprune.pruning.vocabulary.reduce.reduce_vocabulary_, or use a recipe"
        )
    if pruning.keep_layers is not None:
        raise TrainingError(
            "keep_layers drops layers at once, before any training; use hfprune.shrink_ with such "
            "a plan, or a recipe"
        )
    if pruning.max_metric_drop is not None or isinstance(pruning.speedup, list):
        raise TrainingError(
            "a family of models or a limit on the metric takes several trainings; use a recipe, or "
            "give the Trainer one sparsity or speedup at a time"
        )
    if pruning.speedup is not None and latency is None:
        raise TrainingError(
            "pruning.speedup needs measured times: pass "
            "latency=hfprune.deploy.speed.table.latency_table(...)"
        )


def check_environment(args: Any, *, deepspeed: bool, fsdp: bool) -> None:
    """Refuse what gates and physical removal cannot follow.

    Args:
        args: the ``TrainingArguments``.

    Raises:
        TrainingError: for DeepSpeed, FSDP and DataParallel.
    """
    for enabled, name in ((deepspeed, "DeepSpeed"), (fsdp, "FSDP")):
        if enabled:
            raise TrainingError(
                f"{name} shards parameters, which gates and physical removal cannot follow; "
                "use plain data parallelism (accelerate launch --multi_gpu)"
            )
    if args.n_gpu > 1:
        raise TrainingError(
            f"torch.nn.DataParallel over {args.n_gpu} GPUs is not supported; start with "
            "`accelerate launch` or set CUDA_VISIBLE_DEVICES to one GPU"
        )
