"""Which tokens a task needs, and the tokenizer that knows only those.

Word embeddings are half of a small model's file, and a task's texts use a part of them. Tokens are
chosen by :func:`kept_tokens` from training texts, :func:`reduced_tokenizer` makes the tokenizer
that splits the rare words into smaller pieces, and :func:`reduce_vocabulary_` does both and
removes the rows of the model's table.

A text whose tokens all stay is tokenized as before, and the model's logits on it are the same:

* WordPiece takes the longest token that fits: what it took is still there, and nothing longer came;
* Unigram takes the path of the highest score: that path is still there, and no better one came
  (the token of the lowest score stays, since the price of an unknown character hangs on it);
* BPE does the merge of the lowest rank: all merges that lead to a kept token stay, in their order.

Any other text is split into smaller pieces, and at worst into characters or bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from hfprune.core.errors import PlanError
from hfprune.families import model_sizes
from hfprune.pruning.plan import PruningPlan
from hfprune.pruning.surgery import required_tokens, shrink_
from hfprune.pruning.vocabulary.tokenizer import Parts, reduced_tokenizer

Rows = Iterable[Sequence[int]]


def reduce_vocabulary_(
    model: nn.Module, tokenizer: Any, rows: Rows, *, min_count: int = 1
) -> tuple[PruningPlan, Any]:
    """Choose tokens, and remove the others from a model. In place.

    Args:
        model: a classifier, dense or already shrunk.
        tokenizer: the fast tokenizer that it reads; not changed.
        rows: token ids of the training texts, as the model reads them.
        min_count: see :func:`kept_tokens`.

    Returns:
        The plan that was carried out (only its ``vocabulary`` removes anything), and the tokenizer
        for the model as it is now.

    Raises:
        DataError: for a tokenizer that cannot be reduced.
        PlanError: for a model without a vocabulary, or ids that do not fit it.
    """
    kept = kept_tokens(tokenizer, rows, min_count, also=required_tokens(model))
    smaller = reduced_tokenizer(tokenizer, kept)
    dense = PruningPlan.dense(model_sizes(model))
    plan = PruningPlan(dense.heads, dense.neurons, kept)
    shrink_(model, plan)
    return plan, smaller


def kept_tokens(
    tokenizer: Any, rows: Rows, min_count: int = 1, *, also: Iterable[int] = ()
) -> tuple[int, ...]:
    """Ids of the tokens that stay, ascending.

    Special and added tokens; every single character, as it begins a word and as it goes on; bytes;
    what the rows use at least ``min_count`` times; and with BPE what these are merged from.

    Args:
        tokenizer: a fast tokenizer of transformers.
        rows: token ids, one sequence a text.
        min_count: at least 1.
        also: further ids that must stay.

    Raises:
        DataError: if the tokenizer is a slow one, or its model is none of :data:`MODELS`.
        PlanError: if ``min_count`` is below 1, or an id in ``rows`` or ``also`` is no token.
    """
    if min_count < 1:
        raise PlanError(f"min_count is {min_count}; expected at least 1")
    parts = Parts(tokenizer)
    counts: Counter[int] = Counter()
    for row in rows:
        counts.update(row)
    used = {token for token, count in counts.items() if count >= min_count}
    always = parts.fixed_tokens() | set(tokenizer.all_special_ids) | set(also)
    chosen = always | used
    if strange := sorted(chosen - parts.tokens.keys()):
        raise PlanError(
            f"ids {strange[:5]} are no tokens of the tokenizer, whose ids are 0 to "
            f"{max(parts.tokens)}; use the tokenizer that the model was trained with"
        )
    return tuple(sorted(chosen | parts.ancestors(chosen)))
