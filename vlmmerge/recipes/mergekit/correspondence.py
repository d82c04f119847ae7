"""Which method and parameter of mergekit 0.1.5 is which of ours, and where they mean otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vlmmerge.methods import Value


@dataclass(frozen=True)
class Peer:
    """A method of mergekit that is one of ours.

    `per_source`, `shared`: our name of a parameter -> theirs; `not` before a switch turned round.
    `ours`: parameters that theirs does not have, with the value at which both do the same.
    `theirs`: the reverse. `normalize`, `rescale`: their defaults, where they have these switches.
    `recipient`: who the recipient is of a recipe that is read, where no tokenizer is asked for: the
    `first` model; the `base`, where a task vector of nothing changes nothing; or the `base`, which
    is one `end` and no base of ours.
    """

    recipient: Literal["first", "base", "end"]
    per_source: Mapping[str, str] = field(default_factory=dict)
    shared: Mapping[str, str] = field(default_factory=dict)
    ours: Mapping[str, Value] = field(default_factory=dict)
    theirs: Mapping[str, Value] = field(default_factory=dict)
    normalize: bool | None = None
    rescale: bool | None = None


_WEIGHT = {"weight": "weight"}
_DENSITY = {**_WEIGHT, "density": "density"}
_LAMBDA = {"lambda": "lambda"}
_ELECTED = {**_LAMBDA, "normalize": "normalize"}
_VOTES: dict[str, Value] = {"sign_votes": "weighted"}

PEERS: Mapping[str, Peer] = {
    "linear": Peer("first", _WEIGHT, {"normalize": "normalize"}),
    "slerp": Peer("end", {}, {"t": "t"}),
    # Their `nuslerp_row_wise` goes by columns.
    "nuslerp": Peer(
        "first", _WEIGHT, {"row_wise": "not nuslerp_flatten"}, theirs={"nuslerp_row_wise": False}
    ),
    "multislerp": Peer(
        "first",
        _WEIGHT,
        {"eps": "eps"},
        ours={"tangent": "projection"},
        theirs={"normalize_weights": True},
    ),
    "karcher": Peer("first", {}, {"max_iter": "max_iter", "tol": "tol"}),
    "task_arithmetic": Peer("base", _WEIGHT, _LAMBDA, normalize=False, rescale=False),
    "ties": Peer(
        "base",
        _DENSITY,
        _ELECTED,
        ours={**_VOTES, "trim_scope": "tensor"},
        normalize=True,
        rescale=False,
    ),
    "dare_linear": Peer("base", _DENSITY, _LAMBDA, normalize=False, rescale=True),
    "dare_ties": Peer("base", _DENSITY, _ELECTED, ours=_VOTES, normalize=False, rescale=True),
    "breadcrumbs": Peer(
        "base", {**_DENSITY, "gamma": "gamma"}, _LAMBDA, normalize=False, rescale=False
    ),
    "breadcrumbs_ties": Peer(
        "base",
        {**_DENSITY, "gamma": "gamma"},
        _ELECTED,
        ours=_VOTES,
        normalize=False,
        rescale=False,
    ),
    "della": Peer(
        "base",
        {**_DENSITY, "epsilon": "epsilon"},
        _ELECTED,
        ours=_VOTES,
        normalize=True,
        rescale=True,
    ),
    "della_linear": Peer(
        "base", {**_DENSITY, "epsilon": "epsilon"}, _LAMBDA, normalize=False, rescale=True
    ),
    "sce": Peer("first", {}, {"select_topk": "select_topk"}),
    "model_stock": Peer("first", {}, {"filter_wise": "filter_wise"}),
    "arcee_fusion": Peer("end"),
    "nearswap": Peer("end", {}, {"t": "t"}),
    "ram": Peer("first", {}, {"epsilon": "epsilon"}, ours={"r": 0.0}),
}

_TURNED = "not "


def their_name(name: str) -> str:
    """What they call a parameter, whether or not it is turned round."""
    return name.removeprefix(_TURNED)


def turned(name: str, value: Value) -> Value:
    """A value of ours as theirs, or of theirs as ours."""
    return not value if name.startswith(_TURNED) else value


# What they say of how a merge is computed, not of what comes out.
IGNORED = ("int8_mask",)
