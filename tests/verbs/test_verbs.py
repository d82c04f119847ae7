"""The other verbs, and every command of the contract as it is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli
from safetensors.torch import load_file
from support import QUICKSTART

import vlmmerge
from vlmmerge.config import options

VLM, BASE, JA, TH = (str(QUICKSTART / name) for name in ("vlm", "base", "ja", "th"))
MODELS = [f"models.recipient={VLM}", f"models.base={BASE}"]


def done(cli: Cli, *arguments: str, cwd: Path | None = None) -> str:
    result = cli(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_help_and_errors_need_no_torch() -> None:
    """`--help` answers in under a second because nothing heavy is imported for it."""
    script = (
        "import sys; sys.argv = ['vlmmerge', *{}]\n"
        "from vlmmerge.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {{'torch', 'transformers', 'datasets', 'evaluate'}} & set(sys.modules)\n"
        "sys.exit(f'imported {{heavy}}' if heavy else 0)"
    )
    for arguments in ([], ["--help"], ["search", "--help"], ["ls", "method"], ["env"], ["serach"]):
        subprocess.run([sys.executable, "-c", script.format(arguments)], check=True)


def test_merge_from_coefficients(cli: Cli, tmp_path: Path) -> None:
    done(
        cli,
        "merge",
        *MODELS,
        "models.donors={ja: " + JA + "}",
        "method=task_arithmetic",
        "coefficients={recipient: {weight: 1.0}, ja: {weight: {all: 0.5, embed: 0.0}}}",
        f"output={tmp_path}/merged",
    )
    found = load_file(tmp_path / "merged" / "model.safetensors")
    vlm, base, ja = (load_file(Path(p) / "model.safetensors") for p in (VLM, BASE, JA))
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    mine = next(n for n in found if n.endswith(name.removeprefix("language_model.")))
    theirs = next(n for n in ja if n.endswith("layers.1.mlp.up_proj.weight"))
    delta = ja[theirs].float() - base[theirs].float()
    assert found[mine].equal((vlm[mine].float() + 0.5 * delta).bfloat16())
    embed = next(n for n in found if "embed_tokens" in n)
    assert found[embed].equal(vlm[embed])
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= names
    assert not names & {"config.yaml", "merge.log"}


def test_a_donor_added_by_its_key(cli: Cli, tmp_path: Path) -> None:
    out = done(
        cli,
        "merge",
        "models=quickstart_ja",
        f"models.donors.th={TH}",
        "method=ties",
        "coefficients.ja.weight=0.5",
        "coefficients.th.weight=0.5",
        "coefficients.ja.density=0.4",
        f"output={tmp_path}/merged",
    )
    assert "39 tensors merged by ties, 75 frozen and 0 copied bit for bit" in out


def test_evaluate_and_compare(cli: Cli, tiny_conf: Path, tmp_path: Path) -> None:
    for name in ("vlm", "base"):
        arguments = ["--config-dir", str(tiny_conf), "tasks=mine", f"output={tmp_path}/{name}"]
        if name == "base":
            arguments += ["limit=10", "seed=3"]
        out = done(cli, "evaluate", f"model={VLM}", *arguments)
        assert "vqa_accuracy" in out
    results = json.loads((tmp_path / "vlm" / "results.json").read_text("utf-8"))
    assert set(results["en"]) >= {
        *("metric", "mean", "stderr", "low", "high", "n"),
        *("empty", "unparsable", "wrong_language", "metrics"),
    }
    assert results["en"]["mean"] > 0.8
    assert results["ja"]["mean"] == 0
    names = {path.name for path in (tmp_path / "vlm").iterdir()}
    assert names == {"results.json", "samples.jsonl", "config.yaml", "evaluate.log"}
    done(cli, "compare", f"runs=[{tmp_path}/vlm,{tmp_path}/base]", f"output={tmp_path}/compared")
    compared = json.loads((tmp_path / "compared" / "compare.json").read_text("utf-8"))
    found = compared["differences"][f"{tmp_path}/base"]
    assert found["en"] == {"diff": 0, "low": 0, "high": 0, "n": 10}  # the same model, fewer rows


def test_compare_finds_the_difference(
    cli: Cli, searched: Path, tiny_conf: Path, tmp_path: Path
) -> None:
    for name, model in (("parent", VLM), ("merge", f"{searched}/model")):
        arguments = ["--config-dir", str(tiny_conf), "tasks=mine", f"output={tmp_path}/{name}"]
        done(cli, "evaluate", f"model={model}", *arguments)
    done(cli, "compare", f"runs=[{tmp_path}/parent,{tmp_path}/merge]", f"output={tmp_path}/c")
    found = json.loads((tmp_path / "c" / "compare.json").read_text("utf-8"))["differences"]
    gain = found[f"{tmp_path}/merge"]["ja"]
    assert 0 < gain["low"] <= gain["diff"] <= gain["high"]
    # A search compared with itself.
    done(cli, "compare", f"runs=[{searched},{searched}]", f"output={tmp_path}/d")


def test_inspect_reads_headers_alone(cli: Cli) -> None:
    models = [f"model={VLM}", f"base={BASE}", "donors={ja: " + JA + "}"]
    found = json.loads(done(cli, "inspect", *models, "format=json"))
    assert found["class"] == "LlavaForConditionalGeneration"
    assert found["plan"]["merged"] == 39
    assert found["plan"]["frozen"] == 75
    assert found["layers"] == 4
    tensors = load_file(Path(VLM) / "model.safetensors")
    assert found["plan"]["write_bytes"] == sum(t.nbytes for t in tensors.values())
    assert sum(p["parameters"] for p in found["parts"].values()) == sum(
        t.numel() for t in tensors.values()
    )
    out = done(cli, "inspect", f"model={VLM}")
    assert "frozen vision_tower" in out


def test_report_is_a_function_of_the_journals(cli: Cli, searched: Path, tmp_path: Path) -> None:
    done(cli, "report", f"runs=[{searched}]", f"output={tmp_path}/report")
    again = (tmp_path / "report" / "report.html").read_text("utf-8")
    assert again == (searched / "report.html").read_text("utf-8")
    done(cli, "report", f"runs=[{searched},{searched}]", f"output={tmp_path}/both")
    both = (tmp_path / "both" / "report.html").read_text("utf-8")
    assert both.count("<h1>") == 2


def test_ls_cp_validate_and_env(cli: Cli, tmp_path: Path) -> None:
    assert "method" in done(cli, "ls")
    listed = done(cli, "ls", "method")
    assert all(name in listed for name in options("method"))
    assert "TIES: trim, elect signs" in listed
    copied = done(cli, "cp", "experiment/quickstart", "mine", cwd=tmp_path)
    assert "--config-dir mine" in copied
    mine = tmp_path / "mine" / "experiment" / "quickstart.yaml"
    mine.rename(mine.with_name("my_quickstart.yaml"))
    checked = done(
        cli,
        "validate",
        "--config-dir",
        "mine",
        "experiment=my_quickstart",
        "method=ties",
        cwd=tmp_path,
    )
    assert "good: ties over 24 coefficients" in checked
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert "torch" in done(cli, "env")


CONTRACT = [
    "search --config-dir CONF experiment=tiny output=DIR/run budget.candidates=8",
    "search experiment=tiny output=DIR/run resume=true --config-dir CONF",
    "search models.recipient={VLM} models.base={BASE} 'models.donors={ja: JA}' tasks=mine"
    " --config-dir CONF budget.candidates=8 output=DIR/own",
    "search -m method=ties,task_arithmetic seed=0 experiment=tiny budget.candidates=8"
    " output=DIR/sweep --config-dir CONF",
    "merge recipe=DIR/run/recipe.yaml output=DIR/merged",
    "merge models=quickstart_ja method=slerp shared.t=0.3 output=DIR/slerp",
    "evaluate model=DIR/merged tasks=mine split=holdout output=DIR/scores --config-dir CONF",
    "evaluate model=DIR/slerp tasks=mine split=holdout output=DIR/others --config-dir CONF",
    "compare 'runs=[DIR/scores,DIR/others]' output=DIR/compared",
    "inspect model=DIR/merged base={BASE} 'donors={ja: JA}' format=json",
    "report 'runs=[DIR/run,DIR/own]' output=DIR/report",
    "ls",
    "ls strategy",
    "cp experiment/quickstart DIR/copied",
    "validate experiment=tiny --config-dir CONF",
    "env",
]


def test_every_command_of_the_contract(cli: Cli, tiny_conf: Path, tmp_path: Path) -> None:
    import shlex

    for line in CONTRACT:
        for name, path in (("{VLM}", VLM), ("{BASE}", BASE), ("ja: JA", f"ja: {JA}")):
            line = line.replace(name, path)
        line = line.replace("CONF", str(tiny_conf)).replace("DIR", str(tmp_path))
        done(cli, *shlex.split(line))
    assert (tmp_path / "sweep" / "1" / "model" / "model.safetensors").exists()
    assert (tmp_path / "sweep" / "sweep.json").exists()


@pytest.mark.parametrize("before", ["", "import vlmmerge.search", "import vlmmerge.verbs.search"])
def test_the_functions_are_functions_whatever_was_imported(before: str) -> None:
    script = f"""
{before}
from vlmmerge import Recipe, evaluate, merge, search
from vlmmerge.errors import ConfigError
from vlmmerge.search import Journal
for function, argument in ((search, {{}}), (merge, "nowhere.yaml"), (search, {{}})):
    try:
        function(argument) if function is search else function(argument, "out")
    except ConfigError as error:
        assert "output" in str(error) or "nowhere.yaml" in str(error), error
    else:
        raise AssertionError
from vlmmerge import search
assert callable(search) and callable(evaluate)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_from_python(tmp_path: Path) -> None:
    checkpoint = vlmmerge.Checkpoint.open(VLM)
    anatomy = vlmmerge.Anatomy.of(VLM)
    assert len(anatomy.backbone) + len(anatomy.frozen) == len(checkpoint.tensors)
    recipe = vlmmerge.Recipe.from_config(
        {
            "models": {"recipient": VLM, "base": BASE, "donors": {"ja": JA}},
            "method": "linear",
            "coefficients": {"ja": {"weight": 1.0}},
        }
    )
    recipe.save(tmp_path / "recipe.yaml")
    assert vlmmerge.Recipe.load(tmp_path / "recipe.yaml") == recipe
    written = vlmmerge.merge(tmp_path / "recipe.yaml", tmp_path / "merged")
    assert (written.merged, written.frozen, written.changed) == (39, 75, 0)
    results = vlmmerge.evaluate(tmp_path / "merged", "quickstart_ja", limit=8)
    assert set(results) >= {"ja_caption", "en_vqa"}
    assert all(score["n"] == 8 for score in results.values())
    with pytest.raises(AttributeError):
        vlmmerge.nothing  # noqa: B018
