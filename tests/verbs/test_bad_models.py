"""Damaged models, disks and outputs: one line, the exit status, no folder and no source changed."""

import dataclasses
import importlib
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from bad_models import CASES, Case
from damage import both, config, element, fp8, small_disk
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from support import Family

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.cli import Guarded, main
from vlmmerge.config import CONF
from vlmmerge.merging.tensor import MergedTensor
from vlmmerge.recipes import Recipe


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: its status, what it printed, and what it left in its folder."""

    status: int
    out: str
    err: str
    left: list[str]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A working directory, and copies of the models that a test damages."""

    home: Path
    models: dict[str, Path]
    nodes: Mapping[str, DictConfig]
    monkeypatch: pytest.MonkeyPatch
    capfd: pytest.CaptureFixture[str]

    def run(self, do: Callable[[], object]) -> Ended:
        """What the console script prints and ends with when it does this."""
        self.capfd.readouterr()
        status: object = 0
        try:
            do()
        except SystemExit as ended:
            status = ended.code
        out, err = self.capfd.readouterr()
        assert isinstance(status, int)
        return Ended(status, out, err, sorted(path.name for path in self.home.iterdir()))

    def command(self, verb: str, *overrides: str) -> Ended:
        self.monkeypatch.setattr(sys, "argv", ["vlmmerge", verb, *overrides])
        return self.run(main)

    def verb(self, verb: str, **changes: object) -> Ended:
        """The same with a config that Hydra composed before, which is most of a command's time."""
        node = OmegaConf.merge(self.nodes[verb], changes)

        def do() -> None:
            with Guarded():
                importlib.import_module(f"vlmmerge.verbs.{verb}").run(node)

        return self.run(do)

    def merge(self, output: object = "out", **changes: object) -> Ended:
        models = {"recipient": self.models["vlm"], "base": self.models["base"]}
        donors = {"tuned": str(self.models["donor"])}
        named = {**{role: str(path) for role, path in models.items()}, "donors": donors}
        return self.verb("merge", models=named, output=str(output), **changes)

    def own(self, role: str) -> Path:
        """The model of a role as a copy that may be changed."""
        copy = self.home.parent / "models" / role
        if self.models[role] != copy:
            self.models[role] = Path(shutil.copytree(self.models[role], copy))
        return copy


@pytest.fixture(scope="module")
def nodes() -> dict[str, DictConfig]:
    weights = "++coefficients={tuned: {weight: 0.5}}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        merge = compose("merge", ["method=task_arithmetic", "coefficients=null", weights])
        return {"merge": merge, "inspect": compose("inspect", ["model=none"])}


@pytest.fixture
def bench(
    family: Family,
    nodes: dict[str, DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Bench:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    models = {"vlm": family.vlm, "base": family.base, "donor": family.donor}
    return Bench(tmp_path / "home", models, nodes, monkeypatch, capfd)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refused(ended: Ended, says: str, status: int = 2, left: Sequence[str] = ()) -> None:
    """One line on stderr that says it, the status, and nothing left behind."""
    assert ended.status == status, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("vlmmerge: ")
    assert re.search(says, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert ended.left == list(left)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_damaged_model_is_one_line(bench: Bench, case: Case) -> None:
    folder = bench.own(case.role)
    case.damage(folder)
    before = files(folder)
    ended = bench.verb("inspect", model=str(folder)) if case.inspect else bench.merge()
    refused(ended, case.says)
    assert files(folder) == before


@pytest.mark.parametrize("case", CASES[::9], ids=lambda case: case.name)
def test_as_the_command_says_it(bench: Bench, case: Case) -> None:
    case.damage(bench.own(case.role))
    named = [f"models.recipient={bench.models['vlm']}", f"models.base={bench.models['base']}"]
    donors = "models.donors={tuned: " + str(bench.models["donor"]) + "}"
    how = ["method=task_arithmetic", "coefficients={tuned: {weight: 0.5}}"]
    refused(bench.command("merge", *named, donors, *how, "output=out"), case.says)


def test_the_same_models_undamaged_merge(bench: Bench) -> None:
    ended = bench.merge()
    assert (ended.status, ended.left) == (0, ["out"]), ended


@pytest.mark.parametrize("role", ["donor", "base"])
def test_a_model_in_fp8_is_merged_as_the_numbers_it_stands_for(bench: Bench, role: str) -> None:
    fp8((8, 8))(bench.own(role))
    assert bench.merge().status == 0
    found = Checkpoint.open("out")
    vlm, base, donor = (Checkpoint.open(bench.models[r]) for r in ("vlm", "base", "donor"))
    for layer in ("0.mlp.up_proj", "2.self_attn.k_proj", "1.mlp.down_proj"):
        theirs = f"model.layers.{layer}.weight"
        mine = f"language_model.{theirs}"
        was = base.read(theirs).float()
        expected = vlm.read(mine).float() + 0.5 * (donor.read(theirs).float() - was)
        distance = (found.read(mine).float() - expected).abs().max()
        assert distance <= expected.abs().max() * 2**-8  # a rounding to bfloat16
        assert not (found.read(mine) == vlm.read(mine)).all()


def test_a_recipient_in_fp8_comes_out_dequantised(bench: Bench) -> None:
    from transformers import AutoModelForImageTextToText

    fp8((8, 8))(bench.own("vlm"))
    assert bench.merge().status == 0
    found, vlm = Checkpoint.open("out"), Checkpoint.open(bench.models["vlm"])
    assert found.tensors.keys() == vlm.tensors.keys()
    assert not found.dequantised
    assert "quantization_config" not in (bench.home / "out" / "config.json").read_text()
    for name in found.tensors:
        if "vision_tower" in name:
            assert (found.read(name) == vlm.read(name)).all()
    _, loading = AutoModelForImageTextToText.from_pretrained(
        bench.home / "out", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def test_remote_code_beside_a_known_type_is_ignored_with_a_note(bench: Bench) -> None:
    config(auto_map={"AutoConfig": "own--code.Config"})(bench.own("donor"))
    donors = {"tuned": str(bench.models["donor"])}
    ended = bench.verb("inspect", model=str(bench.models["base"]), donors=donors, format="json")
    assert ended.status == 0, ended
    assert "(auto_map), which is not run" in ended.out
    assert bench.merge().status == 0


def test_what_is_not_finite_is_merged_where_it_is_allowed(bench: Bench) -> None:
    element(float("inf"))(bench.own("donor"))
    ended = bench.merge(allow_nonfinite=True)
    assert (ended.status, ended.left) == (0, ["out"]), ended


@pytest.mark.parametrize("role", ["vlm", "donor", "base"])
@pytest.mark.parametrize("place", ["", "out", "deep/out"])
def test_an_output_in_a_source_is_refused(bench: Bench, role: str, place: str) -> None:
    folder = bench.own(role)
    before = files(folder)
    refused(bench.merge(output=folder / place), re.escape(str(folder)))
    assert files(folder) == before


def test_an_output_in_a_source_by_a_link_is_refused(bench: Bench) -> None:
    folder = bench.own("donor")
    before = files(folder)
    (bench.home / "link").symlink_to(folder)
    refused(bench.merge(output="link/out"), "link", left=["link"])
    assert files(folder) == before


def test_an_output_below_a_file_is_refused(bench: Bench) -> None:
    (bench.home / "file").write_text("mine")
    refused(bench.merge(output="file/out"), "file", left=["file"])
    assert (bench.home / "file").read_text() == "mine"


def test_a_disk_that_fills_up_midway(bench: Bench) -> None:
    """A disk that holds the companions and some of the weights."""
    with small_disk(bench.home.parent / "disk") as disk:
        ended = bench.merge(output=disk / "out")
        left = files(disk)
    refused(ended, f"{re.escape(str(disk))}.*([Ss]pace|too large)", status=1)
    assert left == []


@pytest.mark.parametrize("after", [1, 15, 30])
def test_an_interrupt_midway(bench: Bench, after: int) -> None:
    form, begun = MergedTensor.form, []

    def interrupted(self: MergedTensor, recipe: Recipe) -> object:
        begun.append(self.meeting.part)
        if len(begun) == after:
            signal.raise_signal(signal.SIGINT)
        return form(self, recipe)

    bench.monkeypatch.setattr(MergedTensor, "form", interrupted)
    refused(bench.merge(), "interrupted", status=1)
    assert len(begun) == after


def test_two_things_wrong_are_still_one_line(bench: Bench) -> None:
    both(config(quantization_config={"quant_method": "gptq"}))(bench.own("vlm"))
    config(hidden_size=7)(bench.own("donor"))
    refused(bench.merge(), "GPTQ")
