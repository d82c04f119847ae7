"""mergekit's YAML: what every construct means, layer by layer; there and back; what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from support import QUICKSTART

from vlmmerge import Recipe
from vlmmerge.anatomy.cells import EMBED, HEAD, MODULES, NORM, Cell
from vlmmerge.errors import ConfigError
from vlmmerge.recipes.mergekit.reading import read_mergekit
from vlmmerge.recipes.mergekit.settings import cells_of
from vlmmerge.recipes.mergekit.writing import Facts, write_mergekit


def read(text: str, layers: int = 8) -> Recipe:
    return Recipe.from_config(read_mergekit(yaml.safe_load(text), lambda _: layers))


def weights(recipe: Recipe, source: str, name: str = "weight", layers: int = 8) -> dict[Cell, Any]:
    place = recipe.sources.index(source)
    return {cell: recipe.coefficients_at(cell)[place][name] for cell in cells_of(layers)}


TIES = """
merge_method: ties
base_model: org/base
models:
  - model: org/base
  - model: org/one
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: org/two@main
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: org/three
    parameters:
      density: 0.33
      weight:
        - {filter: mlp, value: 0.5}
        - {value: 0}
parameters: {normalize: true, int8_mask: true}
dtype: float16
"""


def test_the_usual_ties_file() -> None:
    recipe = read(TIES, layers=7)
    models = recipe.models
    assert (models.recipient, models.base) == (models.base, models.recipient)
    assert list(models.donors) == ["one", "two", "three"]
    assert models.donors["two"].revision == "main"
    assert (recipe.method, recipe.dtype, recipe.shared["normalize"]) == ("ties", "float16", True)
    density = weights(recipe, "one", "density", 7)
    for i in range(7):  # half of the gradient is 1 to 0.7, half 0.7 to 0.1
        t = i / 6
        wanted = 1 - 0.6 * t if t <= 0.5 else 0.7 - 1.2 * (t - 0.5)
        assert density[Cell(i, "attn")] == pytest.approx(wanted)
    assert density[EMBED] == density[NORM] == density[HEAD] == 1
    weight = weights(recipe, "two", "weight", 7)
    assert [weight[Cell(i, "mlp")] for i in (0, 2, 4, 6)] == pytest.approx([0, 0.3, 0.7, 1])
    three = weights(recipe, "three", "weight", 7)
    assert all(v == (0.5 if c.module == "mlp" else 0) for c, v in three.items())


SLERP = """
merge_method: slerp
base_model: org/one
slices:
  - sources:
      - {model: org/one, layer_range: [0, 5]}
      - {model: org/two, layer_range: [0, 5]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - {value: 0.5}
dtype: bfloat16
"""


def test_the_usual_slerp_file() -> None:
    recipe = read(SLERP)
    assert recipe.models.recipient.path == "org/one"
    assert recipe.models.base is None
    assert list(recipe.models.donors) == ["two"]
    t = {cell: recipe.shared_at(cell)["t"] for cell in cells_of(5)}
    assert [t[Cell(i, "attn")] for i in range(5)] == pytest.approx([0, 0.5, 0.3, 0.7, 1])
    assert [t[Cell(i, "mlp")] for i in range(5)] == pytest.approx([1, 0.5, 0.7, 0.3, 0])
    assert t[EMBED] == t[HEAD] == t[NORM] == t[Cell(2, "norm")] == 0.5


def test_slices_of_their_own_parameters_and_a_module() -> None:
    recipe = read(
        """
merge_method: linear
modules:
  text_decoder:
    slices:
      - sources:
          - {model: a, layer_range: [0, 2], parameters: {weight: 0.1}}
          - {model: b, layer_range: [0, 2], parameters: {weight: [0.2, 0.4]}}
      - sources:
          - {model: a, layer_range: [2, 3], parameters: {weight: 0.6}}
          - {model: b, layer_range: [2, 3], parameters: {weight: [0.7, 0.9]}}
    parameters: {normalize: false}
"""
    )
    one, two = weights(recipe, "recipient", layers=3), weights(recipe, "b", layers=3)
    assert [one[Cell(i, "norm")] for i in range(3)] == [0.1, 0.1, 0.6]
    # The only layer of a slice is at the end of a gradient, what is outside at its beginning.
    assert [two[Cell(i, "norm")] for i in range(3)] == [0.2, 0.4, 0.9]
    assert (one[EMBED], one[NORM], one[HEAD]) == (0.1, 0.6, 0.6)
    assert (two[EMBED], two[NORM], two[HEAD]) == (0.2, 0.7, 0.7)
    assert recipe.shared["normalize"] is False


def test_a_normalised_sum_becomes_weights_that_add_up() -> None:
    recipe = read(
        """
merge_method: task_arithmetic
base_model: base
models:
  - {model: a, parameters: {weight: 1}}
  - {model: b, parameters: {weight: [1, 3]}}
parameters: {normalize: true, lambda: 0.5}
""",
        layers=2,
    )
    a, b = weights(recipe, "a", layers=2), weights(recipe, "b", layers=2)
    assert [a[Cell(i, "mlp")] for i in range(2)] == pytest.approx([0.5, 0.25])
    assert all(math.isclose(a[cell] + b[cell], 1) for cell in cells_of(2))
    assert recipe.shared["lambda"] == 0.5


def test_a_tokenizers_model_is_the_recipient() -> None:
    text = TIES + "tokenizer_source: org/three\n"
    recipe = read(text)
    assert recipe.models.recipient.path == "org/three"
    assert weights(recipe, "recipient")[Cell(0, "mlp")] == 0.5
    assert read(TIES + "tokenizer: {source: union}\n").vocabulary == "union"


NUSLERP = """
merge_method: nuslerp
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]
"""

REFUSED = [
    ("merge_method: ties", "merge_method: moe", "merge_method: moe"),
    ("merge_method: ties", "merge_method: passthrough", "layer_path"),
    ("normalize: true", "nomalize: true", "unknown 'nomalize'"),
    ("normalize: true", "rescale: true", "rescale: true of ties"),
    ("filter: mlp", "filter: q_proj", "'q_proj' reaches only some tensors of layers.0.attn"),
    ("- {value: 0}", "", "no filter gives embed a value"),
    ("model: org/three", "model: org/three+org/lora", "LoRA"),
    ("dtype: float16", "dtype: float8", "dtype: float8"),
    ("dtype: float16", "chat_template: auto", "chat_template"),
    ("dtype: float16", "tokenizer: {source: base, tokens: {}}", "tokenizer.tokens"),
    ("density: 0.33", "density: third", "'third' is no number"),
    ("weight: 1.0}", "gamma: 1.0}", "unknown 'gamma'"),
]


@pytest.mark.parametrize(("old", "new", "says"), REFUSED)
def test_what_cannot_be_expressed_is_named(old: str, new: str, says: str) -> None:
    assert old in TIES
    with pytest.raises(ConfigError) as caught:
        read(TIES.replace(old, new))
    assert says in str(caught.value)


def test_rows_that_are_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="nuslerp_row_wise: other than False"):
        read(NUSLERP + "parameters: {nuslerp_row_wise: true}")
    assert read(NUSLERP + "parameters: {nuslerp_flatten: false}").shared["row_wise"] is True


def test_layers_in_another_order_are_a_data_flow_merge() -> None:
    sources = "sources: [{model: a, layer_range: [%d, %d]}, {model: b, layer_range: [%d, %d]}]"
    for spans in ([(0, 2, 0, 2), (1, 3, 1, 3)], [(0, 2, 1, 3)], [(1, 3, 1, 3)]):
        slices = "".join(f"  - {sources % span}\n" for span in spans)
        with pytest.raises(ConfigError, match="data-flow"):
            read(f"merge_method: linear\nslices:\n{slices}parameters: {{weight: 1}}\n")


NUMBERS = st.floats(0.05, 0.7).map(lambda x: round(x, 4))
PLAIN = ("linear", "nuslerp", "task_arithmetic", "della")  # with a weight alone
METHODS = (*PLAIN, "ties", "slerp", "dare_ties", "breadcrumbs")


def by_group(layers: int) -> st.SearchStrategy[Any]:
    keys = ["embed", "norm", "head", f"layers.0-{layers - 1}.attn", f"layers.{layers - 1}.mlp"]
    some = st.dictionaries(st.sampled_from([*keys, "layers.0.norm"]), NUMBERS)
    return NUMBERS | some.flatmap(lambda d: NUMBERS.map(lambda x: {"all": x, **d}))


@given(data=st.data(), method=st.sampled_from(METHODS), layers=st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_there_and_back_means_the_same(data: st.DataObject, method: str, layers: int) -> None:
    donors = {"b": "org/b"} if "slerp" in method else {"b": "org/b", "c": "org/c"}
    node: dict[str, Any] = {
        "models": {"recipient": "org/a", "base": "org/base", "donors": donors},
        "method": method,
        "dtype": "bfloat16",
    }
    if method in ("linear", "slerp", "nuslerp"):
        node["models"]["base"] = None
    if method == "slerp":
        node["shared"] = {"t": data.draw(by_group(layers))}
    else:
        names = ["weight"] if method in PLAIN else ["weight", "density"]
        node["coefficients"] = {
            source: {name: data.draw(by_group(layers)) for name in names}
            for source in ("recipient", *donors)
        }
    if method in ("dare_ties", "della"):
        node["shared"] = {"rescale": data.draw(st.sampled_from(["l1_norm", "none"]))}
    if method == "nuslerp":
        node["shared"] = {"row_wise": data.draw(st.booleans())}
    recipe = Recipe.from_config(node)
    written = yaml.safe_load(yaml.safe_dump(write_mergekit(recipe, Facts(layers, "float32"))))
    back = Recipe.from_config(read_mergekit(written, lambda _: layers))
    assert back.models == recipe.models
    assert (back.method, back.dtype) == (recipe.method, recipe.dtype)
    for cell in cells_of(layers):
        for ours, theirs in zip(
            recipe.coefficients_at(cell), back.coefficients_at(cell), strict=True
        ):
            assert ours == pytest.approx(theirs, abs=1e-12)
        assert recipe.shared_at(cell) == pytest.approx(back.shared_at(cell), abs=1e-12)


def test_writing_names_what_mergekit_lacks() -> None:
    node: dict[str, Any] = {
        "models": {"recipient": "a", "base": "base", "donors": {"b": "b"}},
        "method": "dare_ties",
        "coefficients": {"b": {"weight": 1.0, "density": 0.5}},
    }
    for more, says in [
        ({}, "rescale: inverse_density"),
        ({"shared": {"sign_votes": "unweighted", "rescale": "none"}}, "sign_votes: unweighted"),
        ({"embeddings": "exclude"}, "embeddings: exclude"),
        ({"method": "multislerp", "coefficients": {"b": {}}}, "tangent: log"),
        ({"method": "ties", "shared": {"trim_scope": "model"}}, "trim_scope: model"),
    ]:
        with pytest.raises(ConfigError, match="mergekit cannot express it") as caught:
            write_mergekit(Recipe.from_config({**node, **more}), Facts(4, "float32"))
        assert says in str(caught.value)


def test_the_verb_writes_the_other_kind(cli: Cli, tmp_path: Path) -> None:
    ja, base = QUICKSTART / "ja", QUICKSTART / "base"
    groups = {"all": 0.5, **{f"layers.1.{m}": 0.25 for m in MODULES}}
    Recipe.from_config(
        {
            "models": {"recipient": str(base), "base": str(base), "donors": {"ja": str(ja)}},
            "method": "task_arithmetic",
            "coefficients": {"ja": {"weight": groups}},
        }
    ).save(tmp_path / "ours.yaml")
    done = cli("convert", "recipe=ours.yaml", "output=theirs.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = yaml.safe_load((tmp_path / "theirs.yml").read_text("utf-8"))
    assert theirs["models"] == [{"model": str(ja), "parameters": theirs["models"][0]["parameters"]}]
    assert theirs["models"][0]["parameters"]["weight"][3]["value"] == [0.5, 0.25, 0.5, 0.5]
    again = Recipe.load(tmp_path / "theirs.yml")
    assert weights(again, "ja", layers=4)[Cell(1, "attn")] == 0.25
    refused = cli("convert", "recipe=ours.yaml", "output=theirs.yml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr


def test_what_would_silently_mean_another_merge_is_refused() -> None:
    for text, says in [
        (NUSLERP.replace("nuslerp", "linear") + "base_model: c", "base_model of linear"),
        (SLERP.partition("parameters:")[0], "t is left out"),
        (
            "merge_method: linear\nmodules: {vision_tower: {models: [{model: a}]}}",
            "modules.vision_tower: cannot be expressed",
        ),
    ]:
        with pytest.raises(ConfigError, match="recipe: ") as caught:
            read(text)
        assert says in str(caught.value)
