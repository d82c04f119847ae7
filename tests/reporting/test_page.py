"""The page: everything in one file, everything from outside escaped."""

import json
import re
from pathlib import Path

import pytest

from vlmmerge.recipes import Recipe
from vlmmerge.reporting.card import model_card
from vlmmerge.reporting.page import page
from vlmmerge.reporting.results import results_of, verdict
from vlmmerge.search import Journal


@pytest.fixture
def journal(searched: Path) -> Journal:
    return Journal.read(searched / "journal.jsonl")


def test_it_needs_nothing_from_outside(searched: Path) -> None:
    html = (searched / "report.html").read_text("utf-8")
    links = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in html
    assert html.count("data:image/jpeg") >= 16 + 8
    assert html.count("<svg") == 2


def test_figures_on_the_page_are_those_of_the_results(searched: Path) -> None:
    html = (searched / "report.html").read_text("utf-8")
    results = json.loads((searched / "results.json").read_text("utf-8"))
    for split in ("holdout", "unseen_artwork"):
        for by in results[split].values():
            for score in by.values():
                assert f"{score['mean']:.3f}<small>{score['low']:.3f}" in html
    assert verdict(results)[1] in html
    assert "75, of which 0 changed" in html


def test_text_of_models_and_data_is_escaped(journal: Journal) -> None:
    evil = "<script>alert(1)</script>"
    for row in journal.rows:
        if row.get("phase") == "report":
            for task in row["tasks"].values():
                task["answers"] = [evil for _ in task["answers"]]
        if row["type"] == "gallery":
            for example in row["examples"]:
                example["prompt"] = example["references"][0] = evil
    html = page([journal])
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 24


def test_answers_stand_by_their_systems(journal: Journal) -> None:
    gallery = journal.find("gallery")
    assert gallery is not None
    html = page([journal])
    for entry in gallery["examples"]:
        row = journal.evaluation("report", "best", entry["split"])
        assert row is not None
        answer = row["tasks"][entry["task"]]["answers"][entry["row"]]
        assert answer in html


def test_a_merge_that_is_not_better_is_called_so(searched: Path) -> None:
    results = json.loads((searched / "results.json").read_text("utf-8"))
    for gain in results["objective"]["gain"].values():
        gain |= {"diff": 0.2, "low": 0.1, "high": 0.3}
    assert verdict(results)[0] is True
    results["objective"]["gain"]["uniform"]["low"] = -0.01
    better, sentence = verdict(results)
    assert better is False
    assert "not shown to be better than uniform: +0.200 [-0.010, +0.300]" in sentence


def test_results_are_a_function_of_the_journal(searched: Path, journal: Journal) -> None:
    assert results_of(journal) == json.loads((searched / "results.json").read_text("utf-8"))


def test_the_card_has_the_recipe_and_the_table(searched: Path) -> None:
    card = (searched / "model" / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    results = json.loads((searched / "results.json").read_text("utf-8"))
    assert f"{results['holdout']['ja_vqa']['best']['mean']:.3f}" in card
    assert "method: task_arithmetic" in card
    recipe = Recipe.load(searched / "recipe.yaml")
    assert "base_model" not in model_card(recipe)  # folders are no ids of the hub
