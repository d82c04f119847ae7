"""Numbers in text: the scripts, separators and units that people write them with."""

import re
import unicodedata
from decimal import Decimal

# Digits with separators of thousands (a comma, an apostrophe, an Arabic one) or without, a decimal
# part, and Japanese or Chinese units between: 3万5000, 1億2000万, 3千5百.
_GROUPED = r"\d{1,3}(?:[,٬'’]\d{3})+(?!\d)"
_PLAIN = rf"(?:{_GROUPED}|\d+)(?:[.٫]\d+)?|[.٫]\d+"
_UNITS = {
    "十": 10,
    "百": 100,
    "千": 10**3,
    "万": 10**4,
    "萬": 10**4,
    "億": 10**8,
    "亿": 10**8,
    "兆": 10**12,
}
_UNIT = "[" + "".join(_UNITS) + "]"
_NUMBER = re.compile(rf"(?:(?<![\w).])-)?(?:(?:(?:{_PLAIN}){_UNIT}+)+(?:{_PLAIN})?|{_PLAIN})")
_PART = re.compile(rf"({_PLAIN})({_UNIT}*)")
_SEPARATORS = re.compile(r"[,٬'’]")
_THIN = re.compile(r"(?<=\d)[\u00a0\u202f\u2009](?=\d{3}(?!\d))")  # spaces within a number


def number(text: str) -> str | None:
    """The last number of a text, written plainly: `１，２３４円` gives 1234, `−0.50` gives -0.5."""
    found = _NUMBER.findall(_ascii_digits(text))
    return None if not found else _plainly(_value(found[-1]))


def _ascii_digits(text: str) -> str:
    """Digits of every script as ASCII's, and one minus sign for all that are used as one."""
    level = "".join(c for c in text if not _raised(c))
    joined = _THIN.sub(",", level)
    normal = unicodedata.normalize("NFKC", joined).replace("−", "-").replace("﹣", "-")
    return "".join(
        str(unicodedata.decimal(c)) if c.isdecimal() and not c.isascii() else c for c in normal
    )


def _raised(c: str) -> bool:
    """Whether a digit belongs to a unit or a power, as in `25 m²`: it is no number of its own."""
    return unicodedata.decomposition(c).startswith(("<super>", "<sub>")) and c.isdigit()


def _value(text: str) -> Decimal:
    """A number with its units: 1億2000万5 is 100000000 + 20000000 + 5."""
    values = []
    for digits, units in _PART.findall(text.removeprefix("-")):
        value = Decimal(_SEPARATORS.sub("", digits).replace("٫", "."))
        for unit in units:
            value *= _UNITS[unit]
        values.append(value)
    total = values[0] if len(values) == 1 else sum(values, Decimal(0))
    return total.copy_negate() if text.startswith("-") else total


def _plainly(value: Decimal) -> str:
    """Without an exponent, zeros at the end or a sign of zero; every digit is kept."""
    written = format(value, "f")
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return "0" if written in ("-0", "") else written
