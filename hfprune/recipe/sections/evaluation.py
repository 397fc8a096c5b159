"""What is measured: metrics on the test rows, and speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hfprune.core.tasks import (
    CLASSIFICATION_METRICS,
    EMBEDDING_METRICS,
    RANKING_METRICS,
    TOKEN_METRICS,
)
from hfprune.recipe.places import Clash
from hfprune.recipe.sections.base import (
    MOST_BATCH,
    MOST_ROUNDS,
    MOST_THREADS,
    MOST_TOKENS,
    Name,
    Section,
    twice,
)


class EvaluationConfig(Section):
    """What is measured on the test rows."""

    metrics: list[Name] = Field(
        default=[],
        description="Metrics to compute; []: the usual ones of the task. Classification: "
        + ", ".join(CLASSIFICATION_METRICS)
        + ". Regression: pearson, spearman, mse. Tokens: "
        + ", ".join(TOKEN_METRICS)
        + ". Reranking: "
        + ", ".join(RANKING_METRICS)
        + ". Embeddings, against the dense model's: "
        + ", ".join(EMBEDDING_METRICS)
        + ". Or one that a plug-in adds. With a slash (evaluate-metric/brier_score): a metric on "
        "the Hub.",
    )
    scored_pairs: Name | None = Field(
        default=None,
        description="Sentence embedding: a file of pairs with a number that says how alike they "
        "are (STS), columns sentence1, sentence2 and score. Reported besides is scored_spearman: "
        "Spearman's correlation of the cosines with the numbers.",
        examples=["stsb.csv"],
    )
    retrieval: Name | None = Field(
        default=None,
        description="Sentence embedding: a file of queries and texts, columns query, text and "
        "label (how relevant, from 0 to 1, or whole grades, which are divided by the highest; from "
        "half of it on a text counts as relevant). Reported besides are retrieval_ndcg_at_10 and "
        "retrieval_recall_at_10 of each query's search among all texts of the file.",
        examples=["search.jsonl"],
    )
    confidence: float = Field(
        default=0.95, gt=0, lt=1, description="Level of the confidence intervals."
    )

    def _clashes(self) -> Iterator[Clash]:
        yield from twice("metrics", self.metrics)


class BenchmarkConfig(Section):
    """How the speed of the exported models is measured."""

    batch_sizes: Annotated[
        list[Annotated[int, Field(ge=1, le=MOST_BATCH)]], Field(min_length=1)
    ] = Field(
        default=[1, 32],
        description="Batch sizes to time (where not given, for "
        "reranking: 10, 50 and 100 texts for a query).",
    )
    sequence_lengths: list[Annotated[int, Field(ge=1, le=MOST_TOKENS)]] = Field(
        default=[32, 128],
        description="Input lengths to time, in tokens; at most data.max_length (where not given: "
        "32 and 128, as far as that allows). Images have one size and none of these. Reranking, "
        "where not given: the median length of the validation pairs.",
    )
    traffic: Literal["single", "batches", "both"] = Field(
        default="both",
        description="How texts come in where the model is deployed: one by one, in padded batches "
        "(of the last of batch_sizes), or both. Validation texts of their own lengths are timed "
        "so, and a file is chosen for each use.",
    )
    threads: int = Field(
        default=1, ge=1, le=MOST_THREADS, description="CPU threads of one session."
    )
    repeats: int = Field(default=30, ge=1, le=MOST_ROUNDS, description="Timed runs of each case.")
    warmup: int = Field(default=5, ge=0, le=MOST_ROUNDS, description="Runs before the timed ones.")
    full_table: bool = Field(
        default=False,
        description="Also time lengths 16 to 256, batches of 1, 8 and 32, with one thread and "
        "with all (ONNX models; some minutes more).",
    )

    @property
    def uses(self) -> tuple[Literal["single", "batches"], ...]:
        """What ``traffic`` stands for."""
        return ("single", "batches") if self.traffic == "both" else (self.traffic,)

    def _clashes(self) -> Iterator[Clash]:
        yield from twice("batch_sizes", self.batch_sizes)
        yield from twice("sequence_lengths", self.sequence_lengths)
