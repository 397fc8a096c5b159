"""What all sections share: frozen, strict types, unknown keys refused, errors of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from hfprune.core.errors import RecipeError
from hfprune.recipe.places import Clash, Clashing
from hfprune.recipe.problems import problems_of, with_required_sections
from hfprune.recipe.wording import render, yaml_word

Name = Annotated[str, Field(min_length=1)]
# Beyond these a number is a slip of the keyboard: the machine would stop, or never end.
MOST: Final = 10**9
MOST_BATCH: Final = 2**20
MOST_EPOCHS: Final = 100_000
MOST_SEEDS: Final = 100
MOST_OTHERS: Final = 10
MOST_TOKENS: Final = 2**20
MOST_THREADS: Final = 4096
MOST_ROUNDS: Final = 10**6
MOST_WEIGHT: Final = 10**6

Positive = Annotated[int, Field(ge=1, le=MOST)]
Interval: TypeAlias = Literal["no", "steps", "epoch"]
SectionT = TypeVar("SectionT", bound="Section")


class Section(Clashing):
    """What all sections share: frozen, strict types, unknown keys refused, errors of our own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = problems_of(type(self), with_required_sections(type(self), values), error)
            raise RecipeError(render(type(self).__name__, problems, {})) from None

    # Tells pydantic that this is a plain __init__, so that sections nested in a mapping are
    # validated in place, and their problems reported together with those of their neighbours.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _refuse_clashes(self) -> Self:
        if texts := [clash.text for clash in self._clashes()]:
            raise ValueError("; ".join(texts))
        return self


def twice(key: str, values: Sequence[object]) -> Iterator[Clash]:
    for value, times in Counter(values).items():
        if times > 1:
            yield Clash(f"lists {yaml_word(value)} more than once", (key,))
