"""Did an answer come in the language that was asked for? By the script of its letters."""

import unicodedata

# The scripts of a language, as they begin the Unicode names of their letters.
_SCRIPTS = {
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "zh": ("CJK",),
    "ko": ("HANGUL", "CJK"),
    "th": ("THAI",),
    "ar": ("ARABIC",),
    "fa": ("ARABIC",),
    "hi": ("DEVANAGARI",),
    "bn": ("BENGALI",),
    "ta": ("TAMIL",),
    "he": ("HEBREW",),
    "el": ("GREEK",),
    "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",),
}
_LATIN = ("LATIN",)
SPACELESS = ("ja", "zh", "th", "lo", "km", "my")


def in_language(text: str, language: str) -> bool:
    """Whether at least half of the letters are of the language's script; True without letters."""
    names = [unicodedata.name(c, "") for c in text if c.isalpha()]
    scripts = _SCRIPTS.get(language, _LATIN)
    return 2 * sum(name.startswith(scripts) for name in names) >= len(names)
