"""From a model and a file to a proposed recipe: what is read for it, in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from hfprune.core.errors import DataError
from hfprune.core.machine import usable_cpus
from hfprune.core.tasks import WITHOUT_CLASSES, Task
from hfprune.early.columns import Chosen, choose_columns, label_cells
from hfprune.early.model import (
    ModelFacts,
    as_text,
    check_tokenizer,
    encoder_layout,
    guessed_lengths,
    lengths_of,
    look_at,
)
from hfprune.early.proposal import Proposal, RowFacts, Target, propose
from hfprune.early.rows import Head, read_head

# Texts whose tokens are counted.
_MEASURED = 2000


@dataclass(frozen=True)
class Columns:
    """What the user said of the columns; the rest is found."""

    text: str | None = None
    label: Sequence[str] = ()
    pair: str | None = None
    task: Task | None = None


class Looked(NamedTuple):
    """What was read, and the recipe that it suggests."""

    proposal: Proposal
    rows: RowFacts
    model: ModelFacts


def look(
    model: str,
    file: str,
    *,
    output: str,
    test_file: str | None = None,
    columns: Columns = Columns(),
    target: Target = Target(),  # noqa: B008 (a tuple)
    teacher: str | None = None,
) -> Looked:
    """Read what a proposal needs, and propose.

    Args:
        model: folder, or name on the Hub, which is not asked: of what is not in its cache, nothing
            but the name is known.
        file, test_file: rows to learn from and to report on.
        output: folder of the run.
        columns, target, teacher: what the user said.

    Raises:
        HFPruneError: the file or the model cannot be read, or it is unclear what is meant.
    """
    facts = look_at(model, "the model")
    check_tokenizer(facts, "the model", None)
    head = read_head(file)
    chosen = choose_columns(
        head.columns,
        head.file,
        text=columns.text,
        label=columns.label,
        pair=columns.pair,
        task=columns.task,
        ranker=facts.ranks,
    )
    if chosen.task == "sentence_embedding":
        encoder_layout(facts, "the model")  # refused before anything is said of a result
    rows = row_facts(head, chosen, facts, test_file)
    proposal = propose(
        rows, facts, output=output, target=target, teacher=teacher, cores=usable_cpus()
    )
    told = replace(proposal, said=(*head.notices, *proposal.said))
    return Looked(told, rows, facts)


def row_facts(head: Head, chosen: Chosen, model: ModelFacts, test_file: str | None) -> RowFacts:
    """What a proposal needs of the rows that were read.

    Raises:
        DataError: no row has a text.
    """
    # Spread over the head, as files are often sorted.
    step = max(1, head.size // _MEASURED)
    places = range(0, head.size, step)
    texts = [as_text(head.columns[chosen.text][place]) for place in places]
    if not any(text.strip() for text in texts):
        raise DataError(f"{head.file}, column {chosen.text!r}: no row has a text")
    pairs, each, queries = None, 1.0, None
    if chosen.task == "reranking":
        first, second, each = _pairs_of(head.columns, chosen, places)
        texts, pairs = [as_text(one) for one in first], [as_text(one) for one in second]
        seen = len(set(map(as_text, head.columns[chosen.text])))
        queries = round(seen * head.total / head.size)
    elif chosen.pair is not None:
        pairs = [as_text(head.columns[chosen.pair][place]) for place in places]
    measured = model.tokenizer is not None
    if model.tokenizer is not None:
        lengths = lengths_of(model.tokenizer, texts, pairs)
    else:
        both = zip(texts, pairs, strict=True) if pairs is not None else None
        lengths = guessed_lengths(texts if both is None else [f"{a} {b}" for a, b in both])
    return RowFacts(
        file=head.file,
        test_file=test_file,
        rows=round(head.total * each),
        queries=queries,
        chosen=chosen,
        labels=_labels(head, chosen),
        lengths=lengths,
        measured=measured,
    )


def _labels(head: Head, chosen: Chosen) -> dict[str, int]:
    """How often each label occurs; empty for numbers to predict."""
    if chosen.task in WITHOUT_CLASSES:
        return {}
    if isinstance(chosen.label, list):
        return {
            name: sum(cell == "1" or cell == "True" for cell in label_cells(head.columns[name]))
            for name in chosen.label
        }
    return dict(Counter(label_cells(head.columns[chosen.label])))


def _pairs_of(
    columns: Mapping[str, Sequence[Any]], found: Chosen, places: Sequence[int]
) -> tuple[list[Any], list[Any], float]:
    """Queries and texts of some rows, one pair each, and how many pairs a row has on average."""
    queries: list[Any] = []
    texts: list[Any] = []
    for place in places:
        for name in (str(found.pair), *found.negatives):
            cell = columns[name][place]
            for one in cell if isinstance(cell, list) else [cell]:
                queries.append(columns[found.text][place])
                texts.append(one)
    return queries, texts, len(texts) / max(1, len(places))
