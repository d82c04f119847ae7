"""Merge a tiny model of every vision-language type that transformers has, and check what comes out.

    python tools/check_types.py [--types llava,mllama] [--output docs/models.md]

A model has its type's default config with small sizes (`tiny_types.yaml`) and random weights. It
is saved by transformers in both layouts of names, merged with a base and a donor of its own kind,
and the output compared with the merge written out over live tensors. Which tensors are language is
read from `tests/anatomy/types.yaml`, which is written by hand. Exits with 1 where a type does not
do as that file says.
"""

import argparse
import copy
import datetime
import gc
import hashlib
import importlib.util
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_types import TABLE, TINY, built, varied

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

MERGED = "merged in both layouts"
LAYOUTS = ("hub", "live")
MINE, THEIRS = 0.9, 0.6  # weights of recipient and donor

PAGE = """\
# Which vision-language models work

Of the {all} image-text-to-text types of transformers {version}, {totals}.
Made on {date}, in {seconds:.0f} s, by

    {command}

which takes a tiny model of every type, with the real class, random weights and every kind of layer.
What is known of a type here is known of its names, shapes and layouts, not of any one checkpoint:
`vlmmerge inspect model=DIR base=DIR 'donors={{name: DIR}}'` tells for yours, in seconds.

- **Type** is `model_type` in a model's config.json; **class** is transformers' class of it.
- **Meets**: the plain language model whose tensors are those of its backbone, by the `model_type`
  in a donor's config.json. Donor and base may be of that type, of the VLM's own, or VLMs with this
  language model. Types that are made around any language model, as LLaVA, stand here with their
  default one: `text_config.model_type` in your VLM's config.json says which it has. With –,
  transformers has no such plain model: donor and base are VLMs of the type.
- **Frozen** are the parts that come out as they went in, byte for byte; those in italics lie inside
  the language model. All else of the model is merged.
- **{word}**: saved by transformers with the hub's older names (what
  `save_pretrained` writes) and with the live ones (`save_original_format=False`), each merged with
  a base and with a donor in the other layout. In both, every stored tensor was merged or frozen,
  with name, shape and dtype as before; frozen ones were the same bytes; merged ones what the
  formula gives, computed apart from vlmmerge on the models that transformers loads; and
  transformers loaded the output with no key missing or unexpected.
- **Refused**: vlmmerge says so before it writes anything; the reason is what it says.
- **Needs**: transformers cannot build the type without that library, which was not installed. (With
  timm 1.0.31 the types that need it were merged in both layouts.)

| type | class | meets | frozen | outcome |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What came of a type; `tensors` counts those of the tiny model as it is stored."""

    kind: str
    what: str
    tensors: int
    seconds: float

    @property
    def surprise(self) -> str:
        """What was expected in its place, or ''."""
        row = TABLE[self.kind]
        if "needs" in row and not importlib.util.find_spec(row["needs"]):
            expected = f"needs {row['needs']}"
        else:
            expected = "refused" if "refused" in row else MERGED
        right = self.what.startswith(expected) and row.get("refused", "") in self.what
        return "" if right else expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", help="only these, separated by commas")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.types and options.output:
        parser.error("a page is of all types")
    kinds = options.types.split(",") if options.types else list(TABLE)
    quieten()
    start = time.monotonic()
    outcomes = []
    for kind in kinds:
        outcomes.append(found := outcome_of(kind))
        expected = f" INSTEAD OF {found.surprise}" if found.surprise else ""
        print(
            f"{len(outcomes)}/{len(kinds)} {kind}: {found.what}{expected}"
            f" ({found.tensors} tensors, {found.seconds:.1f} s)",
            flush=True,
        )
        gc.collect()
    seconds = time.monotonic() - start
    merged = sum(found.what == MERGED for found in outcomes)
    print(f"{merged} of {len(outcomes)} {MERGED}, in {seconds:.0f} s")
    if options.output:
        options.output.write_text(page(outcomes, seconds), encoding="utf-8")
    if wrong := [found.kind for found in outcomes if found.surprise]:
        sys.exit(f"not as expected: {', '.join(wrong)}")


def quieten() -> None:
    """One thread, for tensors this small, and no word from transformers."""
    import warnings

    import torch
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def outcome_of(kind: str) -> Outcome:
    """Build, merge and check a type; whatever goes wrong is its outcome and ends nothing else."""
    start = time.monotonic()
    tensors = 0
    try:
        what, tensors = check(kind)
    except Exception as error:
        reason = " ".join(str(error).split())
        what = f"failed: {type(error).__name__}: {reason[:200]}"
        needed = TABLE[kind].get("needs")
        if isinstance(error, ImportError) and needed and needed in reason:
            what = f"needs {needed}"
    return Outcome(kind, what, tensors, time.monotonic() - start)


def check(kind: str) -> tuple[str, int]:
    """What comes of a type, and how many tensors its tiny model is stored in."""
    model = varied(built(kind), 1, 0.2)
    stored = 0
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(kind, model, layout, Path(folder))
            stored = trial.save()
            if problem := trial.refusal() or trial.problem():
                return problem, stored
    return MERGED, stored


@dataclass(frozen=True)
class Trial:
    """A type's recipient, base and donor in a folder, and their merge held to a reference."""

    kind: str
    model: "PreTrainedModel"  # the base, float32
    layout: str
    folder: Path

    def save(self) -> int:
        """Save the three, the donor in the other layout; how many tensors the recipient has."""
        import torch

        dtype, other = torch.float32, "live"
        if self.layout == "live":
            dtype, other = torch.bfloat16, "hub"
        for name, seed, layout in (
            ("base", None, self.layout),
            ("recipient", 2, self.layout),
            ("donor", 3, other),
        ):
            model = copy.deepcopy(self.model)
            model = model if seed is None else varied(model, seed, 0.1)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
            model.config.dtype = dtype
            model.save_pretrained(self.folder / name, save_original_format=layout == "hub")
        return len(stored(self.folder / "recipient"))

    def refusal(self) -> str:
        """Why vlmmerge does not take the recipient, or ''."""
        from vlmmerge import Anatomy
        from vlmmerge.errors import VlmMergeError

        try:
            Anatomy.of(self.folder / "recipient")
        except VlmMergeError as error:
            reason = str(error).removeprefix(f"{type(self.model).__name__}: ").split("; take ")[0]
        else:
            return ""
        try:
            self.merge()
        except VlmMergeError:
            left = (self.folder / "output").exists()
            return f"refused: {reason}" + (", and an output is left" if left else "")
        return f"merged although its anatomy says: {reason}"

    def problem(self) -> str:
        """What is wrong with transformers' own round trip or with the merge, or ''."""
        recipient, wrong = self.load("recipient")
        if wrong:
            return f"transformers does not load what it saved in the {self.layout} layout: {wrong}"
        base, donor = self.load("base")[0], self.load("donor")[0]
        counts = self.merge()
        before, after = stored(self.folder / "recipient"), stored(self.folder / "output")
        if {n: t[:2] for n, t in before.items()} != {n: t[:2] for n, t in after.items()}:
            return f"{self.layout}: output has other names, shapes or dtypes"
        changed = sum(before[name] != after[name] for name in before)
        if counts != (changed, len(before) - changed):
            return f"{self.layout}: {changed} of {len(before)} tensors changed, {counts} reported"
        output, wrong = self.load("output")
        if wrong:
            return f"{self.layout}: transformers does not load the output: {wrong}"
        return self.differs(recipient, base, donor, output)

    def load(self, name: str) -> "tuple[dict[str, torch.Tensor], str]":
        """Live tensors of a folder in float32, and what transformers was not content with."""
        import torch

        kind: Any = type(self.model)
        model, info = kind.from_pretrained(
            self.folder / name, dtype=torch.float32, output_loading_info=True
        )
        wrong = (f"{len(v)} {what}, {min(map(str, v))} first" for what, v in info.items() if v)
        return model.state_dict(), "; ".join(wrong)

    def merge(self) -> tuple[int, int]:
        """Merge by task arithmetic; how many tensors vlmmerge says are merged and are not."""
        from vlmmerge import Recipe, merge

        models = {name: str(self.folder / name) for name in ("recipient", "base")}
        recipe = {
            "models": {**models, "donors": {"donor": str(self.folder / "donor")}},
            "method": "task_arithmetic",
            "coefficients": {"recipient": {"weight": MINE}, "donor": {"weight": THEIRS}},
        }
        written = merge(Recipe.from_config(recipe), self.folder / "output")
        return written.merged, written.frozen + written.copied

    def differs(self, *models: "Mapping[str, torch.Tensor]") -> str:
        """The first live tensor that is not what the table and the formula say, or ''."""
        import torch

        recipient, base, donor, output = models
        row = {**TABLE[self.kind], **TINY["types"].get(self.kind, {})}
        tied = row.get("tied", [])
        near = 1e-5 if self.layout == "hub" else 2**-8  # half a step of bfloat16, and more
        for name, tensor in output.items():
            part = longest(name, [*row["backbone"], *row["frozen"], *tied])
            mine, root, theirs = (model[name] for model in (recipient, base, donor))
            if part is None:
                return f"{self.layout}: {name} is in no part of the table"
            expected = mine
            if part in row["backbone"] or part in tied:
                expected = root + (MINE * (mine - root) + THEIRS * (theirs - root))
            exact = part in row["frozen"]
            if not torch.allclose(tensor, expected, *((0, 0) if exact else (near, 1e-6))):
                return f"{self.layout}: {name} is not as the reference"
        return ""


def stored(folder: Path) -> "dict[str, tuple[torch.dtype, tuple[int, ...], str]]":
    """Every stored tensor by name: dtype, shape, and a digest of its bytes."""
    import torch
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            digest = hashlib.sha256(raw).hexdigest()
            found[name] = (tensor.dtype, tuple(tensor.shape), digest)
    return found


def longest(name: str, prefixes: Sequence[str]) -> str | None:
    """The longest of the prefixes that a tensor is under; `*` stands for any one name."""
    path = name.split(".")
    found = []
    for prefix in prefixes:
        names = prefix.split(".")
        pairs = zip(names, path, strict=False)
        if len(names) <= len(path) and all(a in ("*", b) for a, b in pairs):
            found.append(prefix)
    return max(found, key=lambda prefix: prefix.count("."), default=None)


def page(outcomes: Sequence[Outcome], seconds: float) -> str:
    """The page for users: a line for each type."""
    import transformers

    words = {MERGED: "merged", "refused": "refused", "needs": "in need of a library", "": "failed"}
    counts = Counter(next(w for w in words if found.what.startswith(w)) for found in outcomes)
    head = PAGE.format(
        totals=", ".join(f"{counts[word]} {said}" for word, said in words.items() if counts[word]),
        all=len(outcomes),
        version=transformers.__version__,
        date=datetime.datetime.now(datetime.UTC).date(),
        seconds=seconds,
        command="python tools/check_types.py --output docs/models.md",
        word=MERGED.capitalize(),
    )
    return head + "".join(f"| {' | '.join(cells(found))} |\n" for found in outcomes)


def cells(found: Outcome) -> tuple[str, ...]:
    """A type's line of the table."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    row = TABLE[found.kind]
    own = TINY["types"].get(found.kind, {})
    name = own.get("class") or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[found.kind]
    meets = f"`{row['meets']}`" if "meets" in row else "–"
    frozen: dict[str, None] = {}  # a set in order
    for part in row.get("frozen", ()):
        inside = longest(part, row["backbone"])
        short = re.sub(r"\.(\d+|\*)(?=\.|$)", ".N", part.removeprefix("model."))
        frozen[f"*{own.get('inside', short)}*" if inside else short] = None
    return f"`{found.kind}`", name, meets, ", ".join(frozen), found.what.replace("|", "/")


if __name__ == "__main__":
    main()
