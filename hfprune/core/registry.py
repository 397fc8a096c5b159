"""Things by name that others may add: families, scores, runtimes, metrics, readers.

A :class:`Registry` holds what hfprune brings and what :meth:`Registry.register` adds. Installed
packages add theirs by entry points of the group ``hfprune.<plural>``, which are loaded once, when a
name is asked for that hfprune itself does not bring, or all names are::

    [project.entry-points."hfprune.scores"]
    depth = "my_package:depth_score"

The entry point's name is the registered one, and what it points to is the value.
"""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from hfprune.core.errors import ExtensionError, HFPruneError

T = TypeVar("T")


class PluginWarning(UserWarning):
    """An installed package offers something to hfprune that cannot be used."""


class Registry(Generic[T]):
    """Values of one kind by name.

    Args:
        what: one of them in words, for messages: ``"score"``.
        plural: the same of several; entry points are of the group ``hfprune.<plural>``.
        check: raises an :class:`HFPruneError` for a value that cannot be one of them. It is given
            the name and the value.
        error: raised by :meth:`get` for a name that nobody knows.

    Example:
        >>> shapes = Registry[int]("shape", "shapes")
        >>> shapes.register("square", 4)
        >>> shapes.get("square"), "circle" in shapes
        (4, False)
    """

    def __init__(
        self,
        what: str,
        plural: str,
        *,
        check: Callable[[str, Any], None] | None = None,
        error: type[HFPruneError] = ExtensionError,
    ) -> None:
        self.what = what
        self.group = f"hfprune.{plural}"
        self._check = check
        self._error = error
        self._values: dict[str, T] = {}
        self._lock = threading.RLock()
        self._loading = self._loaded = False

    def register(self, name: str, value: T, *, replace: bool = False) -> None:
        """Add a value; the same again changes nothing.

        Args:
            name: what recipes and errors call it: not empty, without white space.
            value: what :meth:`get` returns.
            replace: whether it may take the place of another of that name.

        Raises:
            ExtensionError: for a name that cannot be one, or that is another's.
            HFPruneError: what ``check`` raises for the value.
        """
        if not isinstance(name, str) or not name or any(letter.isspace() for letter in name):
            raise ExtensionError(
                f"{name!r} cannot be the name of a {self.what}: expected text without white space"
            )
        if self._check is not None:
            self._check(name, value)
        if not replace and self._values.get(name, value) is not value:
            raise ExtensionError(
                f"there is a {self.what} {name!r} already: choose another name, or say replace=True"
            )
        self._values[name] = value

    def get(self, name: str) -> T:
        """The value of a name.

        Raises:
            HFPruneError: of the class ``error``, with all names and the nearest one.
        """
        if name in self:
            return self._values[name]
        raise self._error(f"there is no {self.what} {name!r}. {self.suggest(name)}")

    def suggest(self, name: str) -> str:
        """What to write in place of a name that nobody knows, for the end of an error."""
        names = self.names()
        near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else []
        there = f"There are: {', '.join(names)}" if names else "There are none"
        return f"Did you mean {near[0]!r}? {there}" if near else there

    def names(self) -> tuple[str, ...]:
        """All names, those of hfprune first, in the order of their registration."""
        self._load()
        return tuple(self._values)

    def __contains__(self, name: object) -> bool:
        if name not in self._values:
            self._load()
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        """Take in what installed packages offer: once, and nothing of it can break the caller."""
        if self._loaded:
            return
        with self._lock:
            if self._loading or self._loaded:
                return  # a plug-in that is being loaded asks for names, or another thread was first
            self._loading = True
            for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
                try:
                    self.register(point.name, point.load())
                except (Exception, SystemExit) as error:  # of other people's code, whatever it is
                    warnings.warn(
                        f"{_describe(point)} is left out, {self.what} {point.name!r} is not there: "
                        f"{type(error).__name__}: {error}",
                        PluginWarning,
                        stacklevel=2,
                    )
            self._loading, self._loaded = False, True


def _describe(point: EntryPoint) -> str:
    package = f" of the package {point.dist.name}" if point.dist is not None else ""
    return f"the plug-in {point.value!r}{package} ({point.group})"
