"""Numbers read out of text, as people and models write them."""

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_rows import task, write

from vlmmerge.errors import TaskError
from vlmmerge.tasks.numbers import number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 18.", "18"),
        ("She has 3 + 4 = 7 apples", "7"),
        ("10-3", "3"),  # a difference, not -3
        ("= -3", "-3"),
        ("−0.50", "-0.5"),
        ("－１２", "-12"),
        ("$1,234.50", "1234.5"),
        ("1,234,567 people", "1234567"),
        ("1, 2, 3", "3"),
        ("１，２３４円", "1234"),
        ("答えは４２です。", "42"),
        ("3万5000円", "35000"),
        ("1億2000万人", "120000000"),
        ("２．５万", "25000"),
        ("5千", "5000"),
        ("3千5百", "3500"),
        ("2百3十円", "230"),
        ("25 m²", "25"),
        ("CO₂は12トン", "12"),
        ("1\u202f234\u00a0567", "1234567"),
        ("١٬٢٣٤٫٥", "1234.5"),
        ("คำตอบคือ ๑๘", "18"),
        ("50%", "50"),
        (".5", "0.5"),
        ("007", "7"),
        ("-0", "0"),
        ("x2 is 9", "9"),
        (r"\boxed{18}", "18"),
        ("in 2024-01-05", "5"),
        ("9" * 5000, "9" * 5000),
        ("no number", None),
        ("", None),
        ("万", None),
    ],
)
def test_the_last_number(text: str, expected: str | None) -> None:
    assert number(text) == expected


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9)))
def test_a_number_is_read_back(value: Decimal) -> None:
    for written in (f"{value:f}", f"{value:,f}", f"= {value:f}."):
        found = number(written)
        assert found is not None
        assert Decimal(found) == value


@given(st.text())
def test_any_text_has_a_number_or_none(text: str) -> None:
    found = number(text)
    assert found is None or number(found) == found


def test_references_are_numbers_too(tmp_path: Path) -> None:
    write(tmp_path, "search", [{"question": "?", "answers": ["3 + 4 = 7. #### 1,007"]}])
    assert task(tmp_path, extract="number").load("search")[0].references == ("1007",)
    write(tmp_path / "b", "search", [{"question": "?", "answers": ["seven"]}])
    with pytest.raises(TaskError, match="row 0: column 'answers' holds no number: 'seven'"):
        task(tmp_path / "b", extract="number").load("search")
