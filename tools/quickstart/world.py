"""The concepts, grounds and sizes that the toy world is made of, with their names by language."""

from collections import Counter
from dataclasses import dataclass

LANGUAGES = ("en", "ja", "th")

JAPAN = "🎎🎏🎐🎑🎋🎍🏮⛩🏯🗻👘🍙🍘🍛🍜🍡🍢🍣🍤🍥🍱🍵🍶🍧💮🔰👹👺🎌🌸🎴🚅🗼♨🥢🍠"
ELSEWHERE = "🍎🍌🍕🍔🎂🍦🚗🚲✈🚀⛵🐶🐱🐘🦁🐧🐢🦋🐝🌵🌻🎸🎹🥁⚽🏀☂🔔🔑📷💡👑🎁🪐🌽🧀"

GROUNDS = ("grass", "sand", "snow", "night", "sea")
SIZES = ("small", "big")

# A keyword that this many concepts share ("food", "動物") names none of them.
COMMON = 3


@dataclass(frozen=True)
class Concept:
    """One emoji: its CLDR name and keywords (the name left out) in each language."""

    char: str
    japanese: bool
    names: dict[str, str]
    keywords: dict[str, tuple[str, ...]]
    synonyms: dict[str, tuple[str, ...]]  # keywords that few other concepts share


def read_concepts(annotations: dict[str, dict[str, dict]]) -> list[Concept]:
    """The world's concepts, named by CLDR `annotations` (language -> emoji -> tts, default)."""
    chars = JAPAN + ELSEWHERE
    names = {la: {c: annotations[la][c]["tts"][0] for c in chars} for la in LANGUAGES}
    keywords = {
        la: {
            c: tuple(k for k in annotations[la][c].get("default", []) if k != names[la][c])
            for c in chars
        }
        for la in LANGUAGES
    }
    shared = {la: Counter(k for ks in keywords[la].values() for k in ks) for la in LANGUAGES}
    taken = {la: set(names[la].values()) for la in LANGUAGES}
    return [
        Concept(
            char,
            char in JAPAN,
            {la: names[la][char] for la in LANGUAGES},
            {la: keywords[la][char] for la in LANGUAGES},
            {
                la: tuple(
                    k for k in keywords[la][char] if shared[la][k] < COMMON and k not in taken[la]
                )
                for la in LANGUAGES
            },
        )
        for char in chars
    ]
