"""Keys of a recipe that mean nothing to a task, and what to say of them."""

from __future__ import annotations

from hfprune.core.tasks import Task


def unused_by_embeddings(task: Task) -> dict[str, str]:
    """Keys that have no meaning for sentence_embedding, or for nothing else."""
    if task == "sentence_embedding":
        labels = "has no meaning for embeddings, which are learned without labels: remove it"
        return {
            "data.label_column": labels,
            "data.text_pair_column": "has no meaning for embeddings, of one text each: remove "
            "it, and give both texts as rows of their own",
            "data.stride": "has no meaning for embeddings: remove it (what is longer than "
            "data.max_length is cut)",
            "model.new_head": "has no meaning for embeddings, which have no head: remove it",
            "teacher.num_train_epochs": "has no meaning for embeddings, whose dense model is "
            "taken as it is: remove it",
            "teacher.learning_rate": "has no meaning for embeddings, whose dense model is "
            "taken as it is: remove it",
        }
    why = f"is only for task sentence_embedding; the task is {task}: remove it"
    return dict.fromkeys(
        ("model.pooling", "model.normalize", "data.prompt", "evaluation.scored_pairs",
         "evaluation.retrieval", "distillation.embedding_loss",
         "distillation.similarity_weight"),
        why,
    )  # fmt: skip
