"""Splits by name, by a share, by strata; rows to a limit; questions shown before."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_rows import picture, rows, task, write

from vlmmerge.errors import TaskError
from vlmmerge.tasks import Example, check_overlap
from vlmmerge.tasks.splitting import drawn, shares


def prompts(examples: tuple[Example, ...]) -> list[str]:
    return [example.prompt for example in examples]


def test_splits_by_name(tmp_path: Path) -> None:
    write(tmp_path, "train", rows(0))
    write(tmp_path, "test", rows(10))
    mine = task(tmp_path, splits={"search": "train", "holdout": "test"})
    assert mine.splits() == ["search", "holdout", "test", "train"]
    assert prompts(mine.load("holdout")) == prompts(mine.load("test"))
    with pytest.raises(TaskError, match="there is no 'dev'; test, train"):
        task(tmp_path, splits={"search": "dev"}).load("search")


def test_a_seeded_share(tmp_path: Path) -> None:
    write(tmp_path, "test", rows(0, 20))
    mine = task(tmp_path, splits={"holdout": 0.25, "seed": 0})
    assert mine.splits() == ["search", "holdout", "test"]
    search, holdout = mine.load("search"), mine.load("holdout")
    assert (len(search), len(holdout)) == (15, 5)
    assert sorted(prompts(search + holdout)) == sorted(prompts(mine.load("test")))
    again = task(tmp_path, splits={"holdout": 0.25, "seed": 0}, prompt="{question}")
    assert [e.id for e in again.load("holdout")] == [e.id for e in holdout]
    other = task(tmp_path, splits={"holdout": 0.25, "seed": 1})
    assert prompts(other.load("holdout")) != prompts(holdout)
    check_overlap([mine], "search", "holdout")


def test_a_share_of_one_of_several_splits(tmp_path: Path) -> None:
    write(tmp_path, "train", rows(0))
    write(tmp_path, "test", rows(10, 4))
    with pytest.raises(TaskError, match=r"splits\.of: None is none of test, train"):
        task(tmp_path, splits={"holdout": 0.5}).load("search")
    mine = task(tmp_path, splits={"holdout": 0.5, "of": "test"})
    assert len(mine.load("search")) == len(mine.load("holdout")) == 2
    assert len(mine.load("train")) == 3
    with pytest.raises(TaskError, match=r"a share of 0\.1 leaves no row to holdout"):
        task(tmp_path, splits={"holdout": 0.1, "of": "test"}).load("search")


def test_strata_are_shared_out_alike(tmp_path: Path) -> None:
    content = [{**row, "kind": "ab"[i >= 20]} for i, row in enumerate(rows(0, 30))]
    write(tmp_path, "test", content)
    mine = task(
        tmp_path,
        splits={"holdout": 0.3, "stratify": "kind"},
        columns={"references": "kind", "id": "question"},
    )
    assert Counter(e.references[0] for e in mine.load("holdout")) == {"a": 6, "b": 3}


def test_rows_about_one_picture_stay_together(tmp_path: Path) -> None:
    content = [
        {"question": f"{i}?", "answers": ["a"], "image": {"bytes": picture(i // 3)}}
        for i in range(24)
    ]
    write(tmp_path, "test", content)
    mine = task(
        tmp_path, splits={"holdout": 0.5}, columns={"references": "answers", "image": "image"}
    )
    assert len(mine.load("holdout")) == 12
    check_overlap([mine], "search", "holdout")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=3), min_size=8, max_size=40))
def test_no_share_ever_parts_what_is_connected(keys: list[set[int]]) -> None:
    class Row:
        def __init__(self, own: set[int]) -> None:
            self.keys = frozenset(map(str, own))

    examples = [Row(own) for own in keys]
    try:
        found = shares(examples, [""] * len(keys), 0.5, 0, "tasks.t")  # type: ignore[arg-type]
    except TaskError:  # all are connected
        return
    assert sorted(found["search"] + found["holdout"]) == list(range(len(keys)))
    sides = [
        frozenset().union(*(examples[i].keys for i in found[side]))
        for side in ("search", "holdout")
    ]
    assert not sides[0] & sides[1]


def test_rows_are_drawn_to_a_limit(tmp_path: Path) -> None:
    write(tmp_path, "test", rows(0, 50), "jsonl")
    mine = task(tmp_path, limit=10, seed=1)
    ids = [int(e.id) for e in mine.load("test")]
    assert len(ids) == 10
    assert ids == sorted(ids)
    assert ids != list(range(10))
    assert [int(e.id) for e in task(tmp_path, limit=10, seed=2).load("test")] != ids
    first = task(tmp_path, limit=10, seed=1, streaming=True)
    assert [int(e.id) for e in first.load("test")] == list(range(10))
    assert len(task(tmp_path, limit=99).load("test")) == 50


def test_every_row_is_drawn_as_often() -> None:
    counts = Counter(row for seed in range(3000) for row in drawn(range(10), 3, seed))
    assert all(abs(count - 900) < 120 for count in counts.values())


def test_shown_questions_are_never_the_row_itself(tmp_path: Path) -> None:
    write(tmp_path, "search", rows(0, 6))
    write(tmp_path, "holdout", rows(10, 4))
    mine = task(tmp_path, fewshot={"n": 3, "seed": 0})
    for split in ("search", "holdout"):
        for example in mine.load(split):
            shown = [turn.prompt for turn in example.turns]
            assert len(set(shown)) == 3
            assert example.prompt not in shown
            assert set(shown) <= set(prompts(mine.load("search")))
            assert all(turn.answer.startswith("a") for turn in example.turns)
    other = task(tmp_path, fewshot={"n": 3, "seed": 5}).load("holdout")
    assert other[0].turns != mine.load("holdout")[0].turns
    with pytest.raises(TaskError, match="search has 5 rows to show before row 0, not 6"):
        task(tmp_path, fewshot=6).load("search")


def test_shown_questions_show_another_picture(tmp_path: Path) -> None:
    content = [
        {"question": f"{i}?", "answers": ["a"], "image": {"bytes": picture(i // 2)}}
        for i in range(6)
    ]
    write(tmp_path, "search", content)
    mine = task(tmp_path, fewshot=2, columns={"references": "answers", "image": "image"})
    for example in mine.load("search"):
        shown = {turn.pictures[0].digest for turn in example.turns}
        assert example.pictures[0].digest not in shown


def test_a_shown_choice_ends_with_its_letter(tmp_path: Path) -> None:
    content = [{"question": f"{i}?", "options": ["p", "q"], "answer": "B"} for i in range(3)]
    write(tmp_path, "search", content)
    node = {
        "kind": "multiple_choice",
        "columns": {"options": "options", "answer": "answer"},
        "prompt": "{question}\n{options}",
        "fewshot": 1,
    }
    assert task(tmp_path, **node).load("search")[0].turns[0].answer == "q"
    assert task(tmp_path, **node, scored="letter").load("search")[0].turns[0].answer == "B"


def test_the_same_row_under_another_prompt_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a", "search", rows(0))
    write(tmp_path / "a", "holdout", rows(10))
    write(tmp_path / "b", "search", rows(20))
    write(tmp_path / "b", "holdout", rows(1, 1))
    one = task(tmp_path / "a")
    other = task(tmp_path / "b", prompt="Answer in a word. {question}")
    with pytest.raises(TaskError, match="holdout row 0 is in search too"):
        check_overlap([one, other], "search", "holdout")


def test_any_picture_of_several_is_found(tmp_path: Path) -> None:
    def two(first: int, second: int) -> list[dict[str, object]]:
        pics = [{"bytes": picture(c), "path": None} for c in (first, second)]
        return [{"question": f"{first}?", "answers": ["a"], "pics": pics}]

    write(tmp_path, "search", two(1, 2))
    write(tmp_path, "holdout", two(3, 2))
    mine = task(tmp_path, columns={"references": "answers", "images": "pics"})
    with pytest.raises(TaskError, match="is in search too"):
        check_overlap([mine], "search", "holdout")


def test_the_same_question_about_another_picture_is_another(tmp_path: Path) -> None:
    for split, colour in (("search", 1), ("holdout", 2)):
        content = [{"question": "what?", "answers": ["a"], "image": {"bytes": picture(colour)}}]
        write(tmp_path, split, content)
    mine = task(tmp_path, columns={"references": "answers", "image": "image"})
    check_overlap([mine], "search", "holdout")


@pytest.mark.parametrize(("size", "share"), [(3, 0.5), (2, 0.3), (1, 0.4), (7, 0.1)])
def test_small_strata_add_up_to_the_share(size: int, share: float) -> None:
    kinds = [str(i) for i in range(20) for _ in range(size)]
    examples = [Example(str(i), f"what is {i}?", ("a",)) for i in range(len(kinds))]
    held = shares(examples, kinds, share, 0, "t")["holdout"]
    assert len(held) == round(share * len(kinds))
    each = Counter(kinds[row] for row in held)
    assert all(abs(each[kind] - share * size) < 1 for kind in set(kinds))
