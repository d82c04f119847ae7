"""Wrong input: one line that says what, exit status 2, before any model is loaded, nothing left."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli
from support import QUICKSTART, Family

from vlmmerge.cli import main

VLM, BASE, JA = (QUICKSTART / name for name in ("vlm", "base", "ja"))
OWN = [f"models.recipient={VLM}", f"models.base={BASE}", "tasks=quickstart_ja"]


def refused(cli: Cli, tmp_path: Path, *arguments: str, says: str) -> None:
    """The command ends with 2 and one line that says why; the working directory stays empty."""
    home = tmp_path / "home"
    home.mkdir()
    done = cli(*arguments, cwd=home)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("vlmmerge: ")
    assert says in done.stderr
    assert done.stdout == ""
    assert list(home.iterdir()) == []


def refused_here(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    *arguments: str,
    says: str,
) -> None:
    """The same in this process, where what is heavy is imported once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vlmmerge", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert ended.value.code == 2, (out, err)
    assert err.count("\n") == 1, err
    assert err.startswith("vlmmerge: ")
    assert says in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


SEARCH = [
    (["method=tise"], "method/tise"),
    (["strategy.popsze=4"], "popsze"),
    (["budget.candidates=0"], "budget.candidates: 0 is not a whole number"),
    (["budget.rows=3"], "rows"),
    (["seed=abc"], "seed: 'abc' is not a whole number"),
    (["coefficients.recipient.weight=heavy"], "coefficients.recipient.weight: 'heavy'"),
    (["coefficients.recipient.densty=0.5"], "unknown 'densty'"),
    (["coefficients.recipient.weight={layers.9: 0.5, all: 1}"], "layers.9"),
    (["method=ties", "space.parameters.density.high=1.5"], "density.high: 1.5 is outside"),
    (["space.parameters.weight.start=3"], "start 3"),
    (["space.groups=neurons"], "space.groups: 'neurons'"),
    (["shared.lambda=much"], "shared.lambda: 'much'"),
    (["objective.weights={ja_vqaa: 1}"], "did you mean ja_vqa?"),
    (["objective.floors.en_vqa=-1"], "objective.floors.en_vqa: -1"),
    (["strategy.sigma0=0"], "strategy.sigma0"),
    (["strategy._target_=os.system"], "trust=[os.]"),
    (["engine.device=tpu7"], "engine.device: 'tpu7'"),
    (["embeddings=drop"], "embeddings: 'drop'"),
    (["dtype=int3"], "dtype: 'int3'"),
    (["splits.search=train"], "has no split 'train'"),
    (["splits.holdout=search"], "is in search too"),
    (["splits.extra=[nowhere]"], "no task has a split 'nowhere'"),
    (["tasks=quickstart_jp"], "tasks/quickstart_jp"),
    (["tasks=null"], "must be a string or a list"),
    (["~tasks"], "tasks: name at least one"),
    (["tasks.ja_vqa.metric=clever"], "unknown metric 'clever'"),
    (["tasks.ja_vqa.metric_options={strikt: true}"], "tasks.ja_vqa"),
    (["tasks.ja_vqa.prompt='{riddle}'"], "column 'riddle'"),
    (["tasks.ja_vqa.columns.image=photo"], "column 'photo'"),
    (["tasks.ja_vqa.dataset.path=nowhere"], "tasks.ja_vqa"),
    (["models.donors={ja: nowhere}"], "nowhere"),
    (["models.donors={recipient: x}"], "'recipient' cannot be a donor's name"),
    (["models.donors=null"], "donor"),
    (["models.base=null", "method=ties"], "base"),
    (["models.recipient=null"], "models.recipient"),
]


@pytest.mark.parametrize(("overrides", "says"), SEARCH, ids=lambda value: str(value)[:40])
def test_a_search_refuses(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    overrides: list[str],
    says: str,
) -> None:
    donors = "models.donors={ja: " + str(JA) + "}"
    arguments = ["search", *OWN, donors, *overrides, "output=out"]
    refused_here(monkeypatch, capfd, tmp_path, *arguments, says=says)


@pytest.mark.parametrize(("overrides", "says"), SEARCH[::12], ids=lambda value: str(value)[:40])
def test_a_search_refuses_as_a_user_sees_it(
    cli: Cli, tmp_path: Path, overrides: list[str], says: str
) -> None:
    donors = "models.donors={ja: " + str(JA) + "}"
    refused(cli, tmp_path, "search", *OWN, donors, *overrides, "output=out", says=says)


def test_a_search_refuses_to_have_no_output(cli: Cli, tmp_path: Path) -> None:
    refused(cli, tmp_path, "search", "experiment=quickstart", says="output: a folder is needed")


def test_what_a_library_tells_on_its_first_day_is_not_shown(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "fonts"))  # no fonts are known yet
    donors = "models.donors={ja: " + str(JA) + "}"
    says = "has no split 'train'"
    refused(cli, tmp_path, "search", *OWN, donors, "splits.search=train", "output=out", says=says)


def test_a_search_refuses_a_donor_of_another_width(
    cli: Cli, tmp_path: Path, family: Family
) -> None:
    donors = "models.donors={other: " + str(family.donor) + "}"
    says = "other has hidden_size 24, the recipient 128"
    refused(cli, tmp_path, "search", *OWN, donors, "output=out", says=says)


def test_a_search_refuses_a_donor_of_another_depth(cli: Cli, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(JA)
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3
    model.config.layer_types = None
    model.save_pretrained(tmp_path / "shallow")
    donors = "models.donors={shallow: " + str(tmp_path / "shallow") + "}"
    says = "shallow has 3 layers, the recipient 4"
    refused(cli, tmp_path, "search", *OWN, donors, "output=out", says=says)


def test_a_search_refuses_the_folder_of_another(cli: Cli, tmp_path: Path, searched: Path) -> None:
    before = {path: path.read_bytes() for path in searched.rglob("*") if path.is_file()}
    for more, says in (
        ([], "exists already; resume=true goes on with it"),
        (["resume=maybe"], "resume"),
    ):
        arguments = ["search", "experiment=quickstart", f"output={searched}", *more]
        home = tmp_path / str(len(more))
        home.mkdir()
        refused(cli, home, *arguments, says=says)
    assert {path: path.read_bytes() for path in searched.rglob("*") if path.is_file()} == before


def test_a_resume_refuses_another_config(
    cli: Cli, tmp_path: Path, searched: Path, tiny_conf: Path
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    lines = (searched / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (begun / "journal.jsonl").write_bytes(b"".join(lines[:5]))
    arguments = ["--config-dir", str(tiny_conf), "experiment=tiny", f"output={begun}"]
    refused(
        cli, tmp_path, "search", *arguments, "resume=true", "seed=1", says="config.seed: 0, now 1"
    )
    assert (begun / "journal.jsonl").read_bytes() == b"".join(lines[:5])


def test_a_sweep_of_bad_searches_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    arguments = ["-m", "seed=0,1", "experiment=quickstart", "budget.candidates=0", "output=out"]
    home = tmp_path / "home"
    home.mkdir()
    done = cli("search", *arguments, cwd=home)
    assert done.returncode == 2
    assert "budget.candidates" in done.stderr
    assert list(home.iterdir()) == []


Damage = Callable[[Path], None]


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "abacus"}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_short, "model.safetensors"),
        (without_config, "is"),
        (of_unknown_type, "abacus"),
        (pickled, "pickled weights are not read"),
    ],
)
def test_a_damaged_donor_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    damage: Damage,
    says: str,
) -> None:
    shutil.copytree(JA, tmp_path / "bad")
    damage(tmp_path / "bad")
    donors = "models.donors={bad: " + str(tmp_path / "bad") + "}"
    home = tmp_path / "home"
    home.mkdir()
    refused_here(monkeypatch, capfd, home, "search", *OWN, donors, "output=out", says=says)


OTHERS = [
    (["serach"], "did you mean search?"),
    (["merge", "output=out"], "method: name one"),
    (["merge", "recipe=nowhere.yaml", "output=out"], "nowhere.yaml: no such file"),
    (["merge", "recipe=a.yaml", "method=ties", "output=out"], "recipe: says all of a merge"),
    (["merge", "method=ties", f"models.recipient={VLM}", "output=out"], "donor"),
    (["evaluate", f"model={VLM}", "output=out"], "tasks: name at least one"),
    (["evaluate", "model=nowhere", "tasks=quickstart_ja", "output=out"], "nowhere"),
    (["evaluate", f"model={VLM}", "tasks=quickstart_ja", "split=x", "output=out"], "no split 'x'"),
    (["evaluate", f"model={VLM}", "tasks=quickstart_ja", "limit=0", "output=out"], "limit: 0"),
    (["evaluate", f"model={JA}", "tasks=quickstart_ja", "limit=1", "output=out"], "has pictures"),
    (["compare", "runs=[a]", "output=out"], "runs: give two folders"),
    (["compare", "runs=[a,b]", "output=out"], "a: holds no search"),
    (["report", "runs=[a]", "output=out"], "a: holds no search"),
    (["inspect", "model=nowhere"], "nowhere"),
    (["inspect", "--modle", "x"], "unrecognized arguments: --modle"),
    (["search", "experiment=quickstart", "--config-dir"], "--config-dir: a value is needed"),
    (["search", "experiment quickstart"], "experiment quickstart"),
    (["inspect", f"model={VLM}", "format=xml"], "format: 'xml'"),
    (["ls", "metod"], "did you mean method?"),
    (["cp", "experiment/quickstrat", "."], "did you mean experiment/quickstart?"),
    (["cp", "experiment/quickstart"], "say what and where to"),
    (["validate", "experiment=quickstart", "budget.limit=0"], "budget.limit: 0"),
]


@pytest.mark.parametrize(("arguments", "says"), OTHERS, ids=lambda value: str(value)[:40])
def test_other_verbs_refuse(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    refused_here(monkeypatch, capfd, tmp_path, *arguments, says=says)
