"""Spaces: vectors to recipes and back, over each cell exactly once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmmerge.anatomy import Cell
from vlmmerge.config import build, load_option, options, plain
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import MergeSpace, Recipe, SpaceSpec

LAYERS = 3
CELLS = [
    Cell(None, "embed"),
    *(Cell(i, module) for i in range(LAYERS) for module in ("attn", "mlp", "norm")),
    Cell(None, "norm"),
    Cell(None, "head"),
]


def template(method: str = "ties", donors: int = 2, **changes: object) -> Recipe:
    names = [f"d{i}" for i in range(donors)]
    return Recipe.from_config(
        {
            "models": {"recipient": "a/v", "base": "a/b", "donors": {n: f"a/{n}" for n in names}},
            "method": method,
            "coefficients": {} if method == "slerp" else {n: {} for n in names},
            **changes,
        }
    )


def space(name: str, of: Recipe, cells: list[Cell] = CELLS) -> MergeSpace:
    return MergeSpace.build(build(plain(load_option("space", name)), "space"), of, cells)


@pytest.mark.parametrize(
    ("name", "expected"), [("global", 6), ("per_layer", 3 * 6 + 3), ("per_module", 3 * 9 + 3)]
)
def test_how_many_coordinates(name: str, expected: int) -> None:
    assert len(space(name, template())) == expected


@pytest.mark.parametrize("name", options("space"))
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "dare_ties", "slerp"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_vector_and_recipe_round_trip(name: str, method: str, data: st.DataObject) -> None:
    searched = space(name, template(method, donors=1))
    unit = st.floats(0, 1, allow_subnormal=False)
    vector = data.draw(st.lists(unit, min_size=len(searched), max_size=len(searched)))
    recipe = searched.recipe(vector)
    again = searched.vector(recipe)
    assert searched.recipe(again) == recipe
    assert all(abs(a - b) < 1e-5 for a, b in zip(vector, again, strict=True))
    for cell in CELLS:  # complete: every cell has every parameter
        recipe.coefficients_at(cell)
        recipe.shared_at(cell)


def test_a_coordinate_moves_its_own_cells_alone() -> None:
    searched = space("per_module", template("task_arithmetic", donors=1))
    middle = searched.recipe([0.5] * len(searched))
    for i, dimension in enumerate(searched.dimensions):
        vector = [0.5] * len(searched)
        vector[i] = 0.9
        moved = searched.recipe(vector)
        changed = {
            cell for cell in CELLS if moved.coefficients_at(cell) != middle.coefficients_at(cell)
        }
        assert changed, dimension.label
    assert len({d.label for d in searched.dimensions}) == len(searched)


def test_the_start_is_every_model_as_it_is() -> None:
    searched = space("per_module", template("task_arithmetic"))
    recipe = searched.recipe(searched.start)
    assert all(c == {"weight": 1.0} for cell in CELLS for c in recipe.coefficients_at(cell))


def test_without_the_recipient_only_donors_move() -> None:
    spec = SpaceSpec("global", {"weight": {"low": 0, "high": 2, "start": 1}}, recipient=False)
    searched = MergeSpace.build(spec, template("task_arithmetic"), CELLS)
    assert [d.source for d in searched.dimensions] == ["d0", "d1"]
    weights = [c["weight"] for c in searched.recipe([0.0, 1.0]).coefficients_at(CELLS[0])]
    assert weights == [1.0, 0.0, 2.0]


def test_embeddings_that_are_not_merged_are_not_searched() -> None:
    searched = space("per_module", template("task_arithmetic", embeddings="exclude"))
    assert not any("embed" in key or key == "head" for d in searched.dimensions for key in d.keys)


def test_a_tied_model_has_no_head() -> None:
    searched = space("per_module", template("task_arithmetic"), CELLS[:-1])
    assert not any("head" in d.keys for d in searched.dimensions)


def test_uniform_gives_donors_one_weight_and_the_rest_its_start() -> None:
    searched = space("per_module", template("ties"))
    recipe = searched.uniform(0.7)
    for cell in CELLS:
        recipient, *donors = recipe.coefficients_at(cell)
        assert recipient["weight"] == 1.0
        assert {c["weight"] for c in donors} == {0.7}
        assert {c["density"] for c in (recipient, *donors)} == {0.9}
    assert space("global", template("slerp", donors=1)).uniform(1.3).shared["t"] == 1.0


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"low": 0, "high": 2, "start": 3}, "start 3"),
        ({"low": 2, "high": 0, "start": 1}, "start 1"),
        ({"low": 0, "high": 2}, "start"),
        ({"low": 0, "high": 2, "start": 1, "step": 1}, "unknown 'step'"),
    ],
)
def test_bad_ranges_are_refused(span: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MergeSpace.build(SpaceSpec("global", {"weight": span}), template(), CELLS)
    spec = SpaceSpec("global", {"density": {"low": 0.1, "high": 1.5, "start": 1}})
    with pytest.raises(ConfigError, match="outside"):
        MergeSpace.build(spec, template(), CELLS)


def test_a_range_is_narrowed_to_what_the_method_can_use() -> None:
    spread = {"all": 0.1, "layers.0": 0.2}
    coefficients = {"d0": {"epsilon": spread}, "d1": {}}
    searched = space("global", template("della", coefficients=coefficients))
    found = {d.source: d.range for d in searched.dimensions if d.parameter == "density"}
    ends = {source: (span.low, span.high, span.start) for source, span in found.items()}
    assert ends["d0"] == pytest.approx((0.21, 0.79, 0.79))
    assert ends["d1"] == pytest.approx((0.16, 0.84, 0.84))
    for x in (0.0, 0.5, 1.0):
        searched.recipe([x] * len(searched))  # is no error
