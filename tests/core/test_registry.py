"""Things by name that others may add: what is found, what is refused, what a plug-in can break."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from hfprune.core.errors import ExtensionError, PlanError
from hfprune.core.registry import PluginWarning, Registry


def colours(**options: Any) -> Registry[str]:
    registry = Registry[str]("colour", "test_colours", **options)
    registry.register("red", "#f00")
    registry.register("green", "#0f0")
    return registry


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a package with entry points on the path, as pip would."""

    def install(name: str, source: str, points: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hfprune.test_colours]\n{points}\n")
        # Undone at the end of the test, so that no later one imports it.
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)

    monkeypatch.syspath_prepend(str(tmp_path))
    return install


def test_what_is_registered_is_found_in_its_order() -> None:
    registry = colours()
    assert registry.get("green") == "#0f0"
    assert registry.names() == tuple(registry) == ("red", "green")
    assert "red" in registry
    assert "blue" not in registry
    assert 7 not in registry


def test_an_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(PlanError) as caught:
        colours(error=PlanError).get("gren")
    assert (
        str(caught.value)
        == "there is no colour 'gren'. Did you mean 'green'? There are: red, green"
    )
    with pytest.raises(ExtensionError, match="there is no colour 'xyz'. There are: red, green$"):
        colours().get("xyz")
    with pytest.raises(ExtensionError, match="there is no colour 'xyz'. There are none$"):
        Registry[str]("colour", "test_colours").get("xyz")


def test_a_name_has_one_value_unless_it_is_replaced() -> None:
    registry = colours()
    value = "".join(["#f", "00"])
    registry.register("red", registry.get("red"))  # the same again
    with pytest.raises(
        ExtensionError,
        match="there is a colour 'red' already: choose another name, or say replace=True",
    ):
        registry.register("red", value)
    registry.register("red", value, replace=True)
    assert registry.get("red") is value


@pytest.mark.parametrize("name", ["", "light blue", "a\n", None, 3])
def test_what_cannot_be_a_name_is_refused(name: Any) -> None:
    with pytest.raises(ExtensionError, match="cannot be the name of a colour"):
        colours().register(name, "#00f")


def test_a_check_refuses_a_value_before_it_is_there() -> None:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise ExtensionError(f"{name} is {value!r}")

    registry = colours(check=check)
    with pytest.raises(ExtensionError, match="^blue is 7$"):
        registry.register("blue", 7)  # type: ignore[arg-type]
    assert "blue" not in registry


def test_plug_ins_are_loaded_once_and_only_when_they_are_needed(plugin: Any) -> None:
    plugin("our_blues", "print('loaded')\nBLUE = '#00f'", "blue = our_blues:BLUE")
    registry = colours()
    assert registry.get("red") == "#f00"
    assert "our_blues" not in sys.modules
    assert registry.get("blue") == "#00f"
    first = sys.modules.pop("our_blues")
    assert registry.get("blue") == first.BLUE
    assert registry.names() == ("red", "green", "blue")
    assert "our_blues" not in sys.modules


@pytest.mark.parametrize(
    ("source", "points", "why"),
    [
        ("raise RuntimeError('no luck')", "blue = our_blues:BLUE", "RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "blue = our_blues:BLUE", "SystemExit: 3"),
        ("", "blue = our_blues:BLUE", "AttributeError: "),
        ("", "blue = not_there_at_all:BLUE", "ModuleNotFoundError: "),
        ("RED = '#e00'", "red = our_blues:RED", "ExtensionError: there is a colour 'red' already"),
    ],
)
def test_a_broken_plug_in_is_a_warning_that_names_it(
    plugin: Any, source: str, points: str, why: str
) -> None:
    plugin("our_blues", source, f"{points}\nviolet = colorsys:rgb_to_hsv")
    registry = colours()
    with pytest.warns(PluginWarning) as caught:
        assert registry.names() == ("red", "green", "violet")
    name, _, value = points.partition(" = ")
    text = str(caught[0].message)
    assert text.startswith(
        f"the plug-in {value!r} of the package our_blues (hfprune.test_colours) is left out, "
        f"colour {name!r} is not there: {why}"
    )
    assert registry.get("red") == "#f00"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.names()  # said once


def test_a_plug_in_may_register_by_itself_and_ask_for_names(plugin: Any) -> None:
    registry = colours()
    sys.modules["our_registry"] = type(sys)("our_registry")
    sys.modules["our_registry"].registry = registry  # type: ignore[attr-defined]
    source = (
        "from our_registry import registry\n"
        "BLUE = '#00f'\nregistry.register('blue', BLUE)\nSEEN = registry.names()\n"
    )
    try:
        plugin("our_blues", source, "blue = our_blues:BLUE")
        assert registry.names() == ("red", "green", "blue")
        assert sys.modules["our_blues"].SEEN == ("red", "green", "blue")
    finally:
        del sys.modules["our_registry"]
