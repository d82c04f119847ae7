"""Recipes check themselves, and say the same after a round trip through a file."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmmerge.anatomy import Cell
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import Recipe

MODELS = {
    "recipient": "org/vlm",
    "base": "org/base@main",
    "donors": {"ja": "org/ja", "th": "org/th"},
}


def recipe(**changes: object) -> dict[str, object]:
    return {
        "models": MODELS,
        "method": "ties",
        "coefficients": {
            "ja": {"weight": {"all": 0.5, "embed": 0.0, "layers.0-3": 0.4}, "density": 0.5},
            "th": {"weight": 0.2},
        },
        "shared": {"lambda": 0.9},
        **changes,
    }


def test_coefficients_at_a_cell() -> None:
    read = Recipe.from_config(recipe())
    assert read.sources == ["recipient", "ja", "th"]
    assert read.coefficients_at(Cell(2, "mlp")) == [
        {"weight": 1.0, "density": 1.0},
        {"weight": 0.4, "density": 0.5},
        {"weight": 0.2, "density": 1.0},
    ]
    assert read.coefficients_at(Cell(None, "embed"))[1]["weight"] == 0.0
    assert read.shared_at(Cell(0, "attn"))["lambda"] == 0.9
    assert read.shared_at(Cell(0, "attn"))["sign_votes"] == "weighted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "tie"}, "did you mean ties"),
        ({"method": None}, "method"),
        ({"models": {"base": "b"}}, "models.recipient"),
        ({"models": {**MODELS, "base": None}}, "needs the common base"),
        ({"models": {**MODELS, "donors": {}}}, "at least 1"),
        ({"models": {**MODELS, "donors": {"recipient": "x"}}}, "cannot be a donor's name"),
        ({"models": {**MODELS, "extra": 1}}, "extra"),
        ({"models": {**MODELS, "donors": {"ja": 3, "th": "x"}}}, r"models\.donors\.ja"),
        ({"coefficients": {"ja": {"weight": 1.0}}}, r"coefficients\.th: left out"),
        ({"coefficients": {"ja": {"weight": 1}, "th": {"weight": 1}, "xx": {}}}, "unknown 'xx'"),
        ({"coefficients": {"ja": {"wieght": 1}, "th": {}}}, "did you mean weight"),
        ({"coefficients": {"ja": {"density": 0.0}, "th": {}}}, "outside"),
        ({"coefficients": {"ja": {"density": 1.5}, "th": {}}}, "outside"),
        ({"coefficients": {"ja": {"weight": float("nan")}, "th": {}}}, "not a number"),
        ({"coefficients": {"ja": {"weight": float("inf")}, "th": {}}}, "outside"),
        ({"coefficients": {"ja": {"weight": True}, "th": {}}}, "not a number"),
        ({"coefficients": {"ja": {"weight": {"layer.0": 1}}, "th": {}}}, "is no group"),
        ({"coefficients": {"ja": 0.5, "th": {}}}, "give parameters"),
        ({"shared": {"lamda": 1}}, "did you mean lambda"),
        ({"shared": {"sign_votes": "both"}}, "weighted, unweighted"),
        ({"shared": {"normalize": 1}}, "true, false"),
        ({"embeddings": "no"}, "embeddings"),
        ({"vocabulary": "both"}, "vocabulary"),
        ({"dtype": "int8"}, "dtype"),
        ({"seed": 1.5}, "seed"),
        ({"layer_path": []}, "layer_path"),
        ({"method": "slerp", "coefficients": {}, "shared": {}}, "needs"),
        ({"colour": 1}, "unknown 'colour'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_config(recipe(**changes))


def test_keys_stay_strings(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "models: {recipient: a/v, base: a/b, donors: {no: a/n, on: a/o, 1: a/1}}\n"
        "method: task_arithmetic\n"
        "coefficients: {no: {weight: 1}, on: {weight: 2}, 1: {weight: 3}}\n"
    )
    read = Recipe.load(file)
    assert list(read.models.donors) == ["no", "on", "1"]
    assert [c["weight"] for c in read.coefficients_at(Cell(0, "mlp"))] == [1, 1, 2, 3]


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("method: ties\nmethod: linear\n")
    with pytest.raises(ConfigError, match="twice"):
        Recipe.load(file)


def test_local_folders_are_saved_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ja").mkdir()
    monkeypatch.chdir(tmp_path)
    models = {"recipient": "org/vlm", "base": "org/base", "donors": {"ja": "ja"}}
    Recipe.from_config(
        {"models": models, "method": "ties", "coefficients": {"ja": {"weight": 1}}}
    ).save("recipe.yaml")
    saved = yaml.safe_load(Path("recipe.yaml").read_text())
    assert saved["models"]["donors"]["ja"] == str(tmp_path / "ja")
    assert saved["models"]["recipient"] == "org/vlm"


numbers = st.floats(-3, 3, allow_nan=False)
by_group = st.dictionaries(
    st.sampled_from(["all", "embed", "head", "layers.0-3", "layers.1.mlp", "layers.2-3.attn"]),
    numbers,
    min_size=1,
)


@given(weight=st.one_of(numbers, by_group), density=st.floats(0.01, 1), lam=numbers)
@settings(max_examples=50, deadline=None)
def test_round_trip_through_yaml(
    tmp_path_factory: pytest.TempPathFactory, weight: object, density: float, lam: float
) -> None:
    written = Recipe.from_config(
        recipe(
            coefficients={"ja": {"weight": weight, "density": density}, "th": {"weight": 0.1}},
            shared={"lambda": lam},
        )
    )
    file = tmp_path_factory.mktemp("recipe") / "r.yaml"
    written.save(file)
    assert Recipe.load(file) == written
    assert Recipe.load(file).content_hash == written.content_hash
