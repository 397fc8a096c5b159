"""Fewer tokens: a copy of the teacher that is pruned and distilled from instead of it.

So teacher and student read the same tokens, and their hidden states can be compared. The teacher
itself, with its own tokenizer, is what results are compared to.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat
from typing import Any

from hfprune.core.kinds import POOLING_KEY, gives_embeddings
from hfprune.data.loading import retokenize
from hfprune.data.token_rows import TokenRows
from hfprune.models.layout import prompts_of
from hfprune.models.loading import load_processor
from hfprune.pipeline.context import Context
from hfprune.pipeline.prepared import Prepared, keep, plan_in
from hfprune.pipeline.results import SavedModel, Tokens
from hfprune.pipeline.stages.data import reading_by
from hfprune.pruning.vocabulary.compare import compare_tokens
from hfprune.pruning.vocabulary.reduce import reduce_vocabulary_

# The teacher with a reduced vocabulary.
START = "teacher-vocabulary"


def run(context: Context, prepared: Prepared, teacher: SavedModel, min_count: int) -> SavedModel:
    """Remove tokens that no text that is learned from uses, with a label or without."""
    model = prepared.saved(context, teacher)
    processor = prepared.dense.processor
    learned = [prepared.data.train, *filter(None, [prepared.dense.unlabeled])]
    read = (ids.tolist() for rows in learned for ids in TokenRows(rows))
    plan, tokenizer = reduce_vocabulary_(
        model,
        processor,
        chain(read, *repeat(_prompts(model, processor), min_count)),
        min_count=min_count,
    )
    return keep(context, model, START, tokenizer, plan)


def _prompts(model: Any, tokenizer: Any) -> list[list[int]]:
    """A sentence encoder's prompts: those that are not learned with are put before texts later."""
    if not gives_embeddings(model):
        return []
    prompts, _ = prompts_of(getattr(model, POOLING_KEY))
    return [tokenizer(text)["input_ids"] for text in prompts.values() if text]


def read_as(context: Context, prepared: Prepared, start: SavedModel) -> None:
    """From here on the pruned models read as ``start`` does."""
    tokenizer = load_processor(
        str(context.path(start.folder)),
        context.recipe.task,
        revision=None,
        trust_remote_code=False,
        key="output_dir",
    )
    small = reading_by(context, tokenizer, retokenize(prepared.data, tokenizer))
    prepared.small = replace(small, collate=prepared.dense.collate_by(tokenizer))


def compare(context: Context, prepared: Prepared, start: SavedModel) -> Tokens:
    """What the reduced vocabulary does to the validation texts, which it was not made from."""
    plan = plan_in(context.path(start.folder))
    found = compare_tokens(
        prepared.dense.processor,
        prepared.small.processor,
        plan.vocabulary or (),
        prepared.dense.data.validation["input_ids"],
        prepared.small.data.validation["input_ids"],
    )
    return Tokens.model_validate(found.to_dict())
