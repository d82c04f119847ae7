"""Group keys: the narrowest wins, and what is not clear is refused."""

import pytest

from vlmmerge.anatomy import Cell
from vlmmerge.errors import ConfigError
from vlmmerge.recipes.groups import check_depth, lookup, parse_keys

EMBED, HEAD, NORM = (Cell(None, name) for name in ("embed", "head", "norm"))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (EMBED, 0.0),
        (HEAD, 0.5),
        (NORM, 0.1),
        (Cell(0, "attn"), 0.4),
        (Cell(3, "norm"), 0.4),
        (Cell(5, "mlp"), 0.9),
        (Cell(5, "attn"), 0.5),
        (Cell(6, "mlp"), 7.0),
        (Cell(6, "norm"), 6.0),
    ],
)
def test_the_narrowest_key_wins(cell: Cell, expected: float) -> None:
    values = {
        "all": 0.5,
        "embed": 0.0,
        "norm": 0.1,
        "layers.0-3": 0.4,
        "layers.4-7.mlp": 0.9,
        "layers.6": 6.0,
        "layers.6.mlp": 7.0,
    }
    assert lookup(values, cell, "here") == expected


def test_a_number_is_for_every_cell() -> None:
    assert lookup(0.3, Cell(9, "attn"), "here") == 0.3


@pytest.mark.parametrize(
    "keys",
    [
        ("layers.0-3", "layers.2-5"),
        ("layers.0-1.mlp", "layers.1-2.mlp"),
        ("layers.0-2.norm", "layers.1"),  # three cells each
    ],
)
def test_equal_widths_that_overlap_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="overlap"):
        parse_keys(keys, "here")


@pytest.mark.parametrize(
    "keys", [("layers.0-3", "layers.4-7"), ("layers.0.mlp", "layers.0.attn"), ("embed", "head")]
)
def test_equal_widths_apart_are_fine(keys: tuple[str, ...]) -> None:
    assert {group.key for group in parse_keys(keys, "here")} == set(keys)


@pytest.mark.parametrize(
    "key",
    ["", "layers", "layers.", "layers.a", "layers.3-1", "layers.0.mlpx", "Embed", "layers.-1"],
)
def test_what_is_no_group_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match="here"):
        parse_keys((key,), "here")


def test_a_cell_that_nothing_covers_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"layers\.2\.mlp"):
        lookup({"layers.0-1": 1.0, "layers.2.attn": 1.0}, Cell(2, "mlp"), "here")


def test_layers_beyond_the_last_are_refused() -> None:
    check_depth(["all", "layers.0-3"], 4, "here")
    with pytest.raises(ConfigError, match="beyond the last, 3"):
        check_depth(["layers.0-4"], 4, "here")
