"""The anatomy of every image-text-to-text type of transformers, against a table written by hand."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from vlmmerge import Anatomy
from vlmmerge.anatomy.anatomy import build_meta, dissect
from vlmmerge.anatomy.cells import cell_of
from vlmmerge.errors import AlignmentError, CheckpointError

TABLE: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "types.yaml").read_text(encoding="utf-8")
)
REFUSED = [kind for kind, row in TABLE.items() if "refused" in row]
LACKING = [
    kind for kind, row in TABLE.items() if "needs" in row and not importlib.util.find_spec("timm")
]
RIGHT = [kind for kind in TABLE if kind not in (*REFUSED, *LACKING)]

# What a VLM's text config and its plain model's say in different forms.
_NOT_SHARED = (
    "model_type",
    "architectures",
    "dtype",
    "layer_types",
    "rope_parameters",
    "max_window_layers",
)


def config_of(kind: str) -> PretrainedConfig:
    config: PretrainedConfig = CONFIG_MAPPING[kind](**TABLE[kind].get("config", {}))
    return config


def longest(name: str, prefixes: list[str]) -> str | None:
    """The longest of the prefixes that a tensor is under; `*` stands for any one name."""
    path = name.split(".")

    def covers(prefix: str) -> bool:
        names = prefix.split(".")
        return len(names) <= len(path) and all(
            a in ("*", b) for a, b in zip(names, path, strict=False)
        )

    found = [prefix for prefix in prefixes if covers(prefix)]
    return max(found, key=lambda prefix: prefix.count("."), default=None)


def test_the_table_is_transformers_list() -> None:
    assert set(TABLE) == set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    assert len(RIGHT) >= 85


@cache
def anatomy_of(kind: str) -> tuple[Anatomy, tuple[str, ...]]:
    """The anatomy of a type, and all the tensors that its model has."""
    model = build_meta(config_of(kind))
    return dissect(model), tuple(model.state_dict())


@pytest.mark.parametrize("kind", RIGHT)
def test_every_tensor_is_where_the_table_says(kind: str) -> None:
    row = TABLE[kind]
    anatomy, names = anatomy_of(kind)
    tied = row.get("tied", [])
    prefixes = [*row["backbone"], *row["frozen"], *tied]
    assert len(set(prefixes)) == len(prefixes)
    used = set()
    for name in names:
        prefix = longest(name, prefixes)
        assert prefix is not None, f"{name} is in no part of the table"
        used.add(prefix)
        assert (name in anatomy.ties) == (prefix in tied), name
        assert (name in anatomy.backbone) == (prefix in row["backbone"]), name
        assert (name in anatomy.frozen) == (prefix in row["frozen"]), name
    assert used == set(prefixes)
    inside = {prefix for prefix in row["frozen"] if longest(prefix, row["backbone"])}
    assert {longest(name, row["frozen"]) for name in anatomy.frozen_inside} == inside


@pytest.mark.parametrize("kind", RIGHT)
def test_every_type_has_embedding_and_layers_in_order(kind: str) -> None:
    anatomy, _ = anatomy_of(kind)
    assert anatomy.parts.keys() == anatomy.backbone.keys()
    assert "embed.weight" in anatomy.by_token
    cells = {cell_of(part) for part in anatomy.parts.values()}
    layers = {cell.layer for cell in cells if cell.layer is not None}
    assert layers == set(range(len(layers)))
    assert len(layers) > 1
    inside = {cell.module for cell in cells if cell.layer is not None}
    assert {"attn", "mlp"} <= inside <= {"attn", "mlp", "norm"}


@pytest.mark.parametrize("kind", [kind for kind in RIGHT if "meets" in TABLE[kind]])
def test_the_backbone_meets_its_plain_model(kind: str) -> None:
    mine, _ = anatomy_of(kind)
    theirs = Anatomy.of(plain_config(kind))
    assert not set(theirs.frozen) - set(theirs.frozen_inside)
    shapes = {part: mine.backbone[name] for name, part in mine.parts.items()}
    their = {part: theirs.backbone[name] for name, part in theirs.parts.items()}
    # A head that is tied on one side, or that a VLM does without, meets through the embedding.
    shapes.pop("head.weight", None)
    their.pop("head.weight", None)
    assert shapes.keys() == their.keys()
    for part, shape in shapes.items():
        rows = part in mine.by_token
        assert shape[rows:] == their[part][rows:], part


def plain_config(kind: str) -> PretrainedConfig:
    """The config of the plain model that a type's backbone is: the same sizes, another class."""
    row = TABLE[kind]
    text = config_of(kind)
    text = next((c for c in _nested(text) if c.model_type == row["meets"]), text.get_text_config())
    if text.model_type == row["meets"]:
        return text
    values = {k: v for k, v in text.to_dict().items() if v is not None and k not in _NOT_SHARED}
    plain = CONFIG_MAPPING[row["meets"]]
    known = plain().to_dict()
    values = {k: v for k, v in values.items() if k in known}
    if kind == "mllama":
        values["num_hidden_layers"] -= len(text.cross_attention_layers)
    if kind == "ernie4_5_vl_moe":  # of text and of vision experts
        values["moe_intermediate_size"] = values["moe_intermediate_size"][0]
    config: PretrainedConfig = plain(**values)
    return config


def _nested(config: PretrainedConfig) -> list[PretrainedConfig]:
    inner = [vars(config)[name] for name in config.sub_configs if vars(config).get(name)]
    return [nested for one in inner for nested in (one, *_nested(one))]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_work_is_refused_by_name(kind: str) -> None:
    with pytest.raises(AlignmentError, match=TABLE[kind]["refused"]) as caught:
        Anatomy.of(config_of(kind))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind])


@pytest.mark.parametrize("kind", LACKING)
def test_a_library_that_is_not_there_is_named(kind: str) -> None:
    with pytest.raises(CheckpointError, match="timm") as caught:
        Anatomy.of(config_of(kind))
    assert "\n" not in str(caught.value)
