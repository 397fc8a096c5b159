"""What a path of a recipe points to: the section, the key, the type that is allowed there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True)
class Clash:
    """Keys (dotted, below the section that reports them) that are right alone, wrong together."""

    text: str
    keys: tuple[str, ...]


class Clashing(BaseModel):
    """A section as the search for problems sees it: it can say which of its values clash."""

    # The sections that a whole recipe is made of; the outermost says itself where keys belong.
    root: ClassVar[type[Clashing] | None] = None

    def _clashes(self) -> Iterator[Clash]:
        """Contradictions among the (valid) values of this section and those below it."""
        return iter(())


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a line of the file, or an override."""

    line: int = 0
    override: str = ""

    def __str__(self) -> str:
        return f"override {self.override!r}" if self.override else f"line {self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what to show before the text, and the keys it is about."""

    text: str
    shown: KeyPath
    keys: tuple[KeyPath, ...]
    origin: Origin | None = None  # where the keys alone do not say it

    def under(self, path: KeyPath) -> Problem:
        """The same problem, seen from above: its keys lie below ``path``."""
        keys = tuple((*path, *key) for key in self.keys)
        return replace(self, shown=(*path, *self.shown), keys=keys)


@dataclass(frozen=True)
class Place:
    """What a pydantic location points to."""

    path: KeyPath  # as shown: down to the item of a list
    key: KeyPath  # the key of the recipe that holds it
    section: type[Clashing]  # the section that holds the key
    field: FieldInfo | None  # None: the key is unknown
    annotation: Any  # type of what the path points to


def locate(section: type[Clashing], location: Iterable[str | int]) -> Place:
    inner: type[Clashing] | None = section
    place = Place((), (), section, None, None)
    named = False  # whether the next part may name a branch: a section, or something else
    for part in location:
        if named and inner is not None and _names_branch(inner, part):
            named = False
        elif inner is not None:
            field = inner.model_fields.get(str(part))
            path = (*place.path, part)
            annotation = field.annotation if field else None
            place = Place(path, path, inner, field, annotation)
            inner = section_in(annotation)
            named = inner is not None and len(set(branches_of(annotation)) - {NoneType}) > 1
        elif isinstance(part, int):
            place = replace(place, path=(*place.path, part), annotation=item_type(place.annotation))
        # Else the name of a branch of a union, which is no key.
    return place


def _names_branch(section: type[Clashing], part: str | int) -> bool:
    # pydantic wraps the name of a class that has validators.
    return str(part).startswith("literal[") or str(part).endswith(f" {section.__name__}]")


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def branches_of(annotation: Any) -> list[Any]:
    """The types that an annotation allows: of ``int | None``, int and NoneType."""
    annotation = _bare(annotation)
    if get_origin(annotation) in (Union, UnionType):
        return [branch for part in get_args(annotation) for branch in branches_of(part)]
    return [annotation]


def section_in(annotation: Any) -> type[Clashing] | None:
    for branch in branches_of(annotation):
        if isinstance(branch, type) and get_origin(branch) is None and issubclass(branch, Clashing):
            return branch
    return None


def item_type(annotation: Any) -> Any:
    for branch in branches_of(annotation):
        if get_origin(branch) is list:
            return get_args(branch)[0]
    return None


def choices_of(annotation: Any) -> tuple[str, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def all_keys(section: type[Clashing], path: KeyPath = ()) -> Iterator[KeyPath]:
    for name, field in section.model_fields.items():
        yield (*path, name)
        if inner := section_in(field.annotation):
            yield from all_keys(inner, (*path, name))
