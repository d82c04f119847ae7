"""Tokenizers by name, the words COCO counts, folding, and warnings of the wrong script."""

import sys
import warnings

import evaluate
import pytest

from vlmmerge.errors import ConfigError, TaskError
from vlmmerge.metrics import text
from vlmmerge.metrics.ptb import ptb
from vlmmerge.scoring.judge import load_metric

SENTENCE = "The dog's ball, 3.5 m away."


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("char", "ＡＢ 鳥 居", ["A", "B", "鳥", "居"]),
        ("whitespace", SENTENCE, ["The", "dog's", "ball,", "3.5", "m", "away."]),
        ("13a", SENTENCE, ["The", "dog's", "ball", ",", "3.5", "m", "away", "."]),
        ("ptb", SENTENCE, ["the", "dog", "'s", "ball", "3.5", "m", "away"]),
        (
            "mecab",
            "たかしが公園で遊んでいた。",
            ["たかし", "が", "公園", "で", "遊ん", "で", "い", "た", "。"],
        ),
    ],
)
def test_tokenizers(name: str, given: str, expected: list[str]) -> None:
    assert list(text.tokenizer(name)(given)) == expected
    assert list(text.tokenizer(name, lowercase=True)(given)) == [w.lower() for w in expected]


def test_an_unknown_tokenizer_is_one_line() -> None:
    with pytest.raises(ConfigError, match="'words' is not one of char, whitespace, 13a, ptb, mec"):
        text.tokenizer("words")


@pytest.mark.parametrize("package", ["fugashi", "unidic_lite"])
def test_mecab_names_its_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    text._mecab.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'vlmmerge\[ja\]'"):
        text.tokenizer("mecab")


# As Stanford's PTBTokenizer 3.4.1 splits them with -lowerCase, COCO's punctuation left out.
PTB = [
    ("A man's dog doesn't like dogs' bowls.", "a man 's dog does n't like dogs bowls"),
    ("Don't stop; they'll can't let's y'all", "do n't stop they 'll ca n't let 's y' all"),
    ("o'clock ma'am d'oh ol' s'mores", "o'clock ma'am d'oh ol' s'mores"),
    ("A t-shirt, black-and-white; 3-year-old.", "a t-shirt black-and-white 3-year-old"),
    ('He said "hello" (quickly) [sic]', "he said hello -lrb- quickly -rrb- -lsb- sic -rsb-"),
    ("Two sentences. The second one. And a third!", "two sentences the second one and a third"),
    ("Mr. Smith in Washington D.C. at 5 p.m.", "mr. smith in washington d.c. at 5 p.m."),
    ("$5.00 and 50% off, #1, 1,000 at 10:30, 1/2", "$ 5.00 and 50 % off # 1 1,000 at 10:30 1/2"),
    ("colour black/white R&B salt & pepper M&M's", "colour black/white r&b salt & pepper m&m 's"),
    ("cannot gonna wanna gotta gimme 'tis", "can not gon na wan na got ta gim me 't is"),
    ("wait... what -- no - yes – “ok” it’s", "wait what no yes ok it 's"),
    ("An emoji 😀 here and café", "an emoji here and café"),
    ("Hmm?! What!! ok??", "hmm ?! what !! ok ??"),
    ("a man ,a dog .a cat on a table.a dog", "a man a dog a cat on a table.a dog"),
    ("-dash at start- e-mail semi- t-shirt's", "dash at start e-mail semi t-shirt 's"),
    ("a sign no. 5 says no. etc.", "a sign no. 5 says no etc."),
    ("_underscore_ a * b @home <br>", "_ underscore _ a * b @home <br>"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("given", "expected"), PTB)
def test_ptb_is_cocos(given: str, expected: str) -> None:
    assert ptb(given) == expected.split()


def test_folding_is_for_full_width_forms_and_marks() -> None:
    assert text.fold("「１２」、ＡＢ。") == "12AB"
    for name in ("exact_match", "anls", "relaxed_accuracy", "token_f1", "vqa_accuracy"):
        metric = load_metric(name, "test")
        given = {"predictions": ["「１２」。"], "references": [["12"]]}
        assert metric.compute(**given, nfkc=True)[name] == 1.0
        assert metric.compute(**given)[name] < 1.0


@pytest.mark.parametrize(
    ("tokenizer", "reference", "message"),
    [
        ("13a", "草の上の鳥居", "mostly not in Latin letters"),
        ("ptb", "красная собака", "mostly not in Latin letters"),
        ("whitespace", "草の上の鳥居", "written without spaces"),
        ("whitespace", "ศาลเจ้าชินโต", "written without spaces"),
        ("whitespace", "красная собака", None),
        ("char", "草の上の鳥居", None),
        ("ptb", "a red café", None),
        ("ptb", "a shrine 鳥居", None),
    ],
)
def test_the_wrong_script_is_warned_of(tokenizer: str, reference: str, message: str | None) -> None:
    for name in ("bleu", "cider", "coco_rouge_l", "rouge_l", "token_f1"):
        metric = load_metric(name, "test")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            metric.compute(predictions=["x"], references=[[reference]], tokenizer=tokenizer)
        said = [str(w.message) for w in caught if "tokenizer" in str(w.message)]
        assert len(said) == (message is not None)
        assert message is None or message in said[0]
        assert metric.name == f"{name} ({tokenizer})"
        assert f'name: "{name} ({tokenizer})"' in repr(metric)


@pytest.mark.parametrize("name", ["bleu", "chrf", "cider", "rouge_l", "coco_rouge_l", "anls"])
def test_what_cannot_be_scored_is_one_line(name: str) -> None:
    metric = load_metric(name, "test")
    with pytest.raises(TaskError, match="row 1 has no reference"):
        metric.compute(predictions=["a", "b"], references=[["a"], []])


def test_they_combine_by_sharing_their_features() -> None:
    metrics = [load_metric(name, "test") for name in ("exact_match", "anls", "chrf")]
    found = evaluate.combine(metrics).compute(predictions=["ab"], references=[["ab"]])
    assert [found[name] for name in ("exact_match", "anls", "chrf")] == pytest.approx([1, 1, 1])
