"""The pages of docs/reference/: types and bounds in words, sentences from the sources."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from pipeline import reference


@dataclass
class Inner:
    share: Annotated[float, Ge(0), Lt(1)] = 1 / 3
    """A share."""


@dataclass
class Outer:
    """What is configured."""

    count: Annotated[int, Ge(1)]
    """How many there are,
    in all."""
    # A comment of
    # two lines.
    kind: Literal["one", "two"] = "one"
    inner: Inner = field(default_factory=Inner)
    """More."""
    parts: dict[str, Inner] = field(default_factory=dict)
    """By name."""
    silent: bool = False

    fitted_ = None


def test_keys_of_a_dataclass_and_of_those_inside_it() -> None:
    assert [(key.name, key.default, key.says) for key in reference.keys(Outer)] == [
        ("count", "**required**", "How many there are, in all."),
        ("kind", "`one`", "A comment of two lines."),
        ("inner", "", "More."),
        ("inner.share", "`0.3333`", "A share."),
        ("parts", "`{}`", "By name."),
        ("parts.NAME.share", "`0.3333`", "A share."),
        ("silent", "`false`", ""),
    ]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Annotated[int, Ge(1)], "whole number at least 1"),
        (Annotated[float, Gt(0), Le(1)], "number in (0, 1]"),
        (Annotated[float, Ge(0), Lt(0.9)] | None, "number in [0, 0.9), or `null`"),
        (Annotated[float, Gt(0)], "number above 0"),
        (Annotated[int, Le(9_000)], "whole number at most 9,000"),
        (list[str], "list, each: text"),
        (tuple[Annotated[int, Ge(8)], Annotated[int, Ge(8)]], "2 values, each: whole number at least 8"),
        (Literal["a", "b"] | None, "`a` or `b`, or `null`"),
        (dict[str, bool], "`NAME:` `true` or `false`"),
        (Any, "anything"),
        (Inner, "keys below"),
    ],
)
def test_what_is_allowed_in_words(hint: Any, words: str) -> None:
    assert reference.allowed(hint) == words


def test_a_table_can_hold_a_bar() -> None:
    @dataclass
    class Barred:
        x: int = 0
        """a | b"""

    assert "a &#124; b" in reference.table(Barred)


def test_a_dataclass_without_keys_has_no_table() -> None:
    @dataclass
    class Empty:
        pass

    assert reference.table(Empty) == "No options.\n"
