"""Python that calls a model through a pipeline, for cards and reports to show."""

from __future__ import annotations

from hfprune.core.kinds import IMAGE, TEXT, Kind


def reader(kind: Kind) -> tuple[str, str]:
    """Class and variable: images have a processor where texts have a tokenizer."""
    return ("AutoImageProcessor", "processor") if kind is IMAGE else ("AutoTokenizer", "tokenizer")


def calls(kind: Kind, ranks: bool, max_length: int | None) -> list[str]:
    """Lines that make a pipeline of ``model``, and call it; they run as they are.

    Args:
        kind: of the model.
        ranks: whether it reads a query with each text.
        max_length: of texts in tokens: what is longer would end in an error of the model's.
    """
    variable = reader(kind)[1]
    argument = "image_processor" if kind is IMAGE else "tokenizer"
    made = f'pipeline("{kind.export_task}", model=model, {argument}={variable})'
    cut = f"truncation=True, max_length={max_length}"
    if ranks:
        return [
            'query, texts = "a query", ["a text that may answer it", "another text"]',
            f"score = {made}",
            'pairs = [{"text": query, "text_pair": text} for text in texts]',
            f"rows = score(pairs, {cut})",
            'order = sorted(range(len(texts)), key=lambda place: -rows[place]["score"])',
        ]
    if kind is TEXT:
        return [f"classify = {made}", f'found = classify(["a text"], {cut})']
    return [f"classify = {made}"]
