"""Python that calls a model through a pipeline, for cards and reports to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hfprune.core.kinds import IMAGE, TEXT, Kind


@dataclass(frozen=True)
class Example:
    """What lines of Python that call a model have to tell of its texts.

    Attributes:
        pairs: it reads a query with each text.
        prompt: what stands before each text of a sentence encoder, which no graph holds.
        max_length: of texts in tokens; ``None``: what the tokenizer says.
        two: it reads two texts together, neither of them a query.
    """

    pairs: bool = False
    prompt: str = ""
    max_length: int | None = None
    two: bool = False

    @property
    def texts(self) -> str:
        """As the first arguments of a tokenizer."""
        if self.pairs:
            return '["a query"], ["a text"]'
        if self.two:
            return '["a text"], ["its second text"]'
        # In ASCII: it is another's text, and reports and cards are read by people.
        return f'[{self.prompt!a} + "a text"]' if self.prompt else '["a text"]'

    @property
    def cut(self) -> str:
        """As further arguments of it: longer texts were never measured, and may be refused."""
        most = "" if self.max_length is None else f", max_length={self.max_length}"
        return f"truncation=True{most}"


EXAMPLE: Final = Example()


def example_for(
    task: str, second: bool, prompt: str = "", max_length: int | None = None
) -> Example:
    """What a model reads, by its task.

    Args:
        task: of a recipe.
        second: whether its rows have a second text.
        prompt, max_length: as :class:`Example` has them.
    """
    ranks = task == "reranking"
    two = second and not ranks and task != "sentence_embedding"
    return Example(ranks, prompt, max_length, two)


def reader(kind: Kind) -> tuple[str, str]:
    """Class and variable: images have a processor where texts have a tokenizer."""
    return ("AutoImageProcessor", "processor") if kind is IMAGE else ("AutoTokenizer", "tokenizer")


def calls(kind: Kind, example: Example) -> list[str]:
    """Lines that make a pipeline of ``model``, and call it; they run as they are.

    Args:
        kind: of the model.
        example: what it reads.
    """
    variable = reader(kind)[1]
    argument = "image_processor" if kind is IMAGE else "tokenizer"
    made = f'pipeline("{kind.export_task}", model=model, {argument}={variable})'
    if example.pairs:
        return [
            'query, texts = "a query", ["a text that may answer it", "another text"]',
            f"score = {made}",
            'pairs = [{"text": query, "text_pair": text} for text in texts]',
            f"rows = score(pairs, {example.cut})",
            'order = sorted(range(len(texts)), key=lambda place: -rows[place]["score"])',
        ]
    if kind is TEXT:
        pair = '[{"text": "a text", "text_pair": "its second text"}]'
        texts = pair if example.two else '["a text"]'
        return [f"classify = {made}", f"found = classify({texts}, {example.cut})"]
    return [f"classify = {made}"]
