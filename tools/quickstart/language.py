"""What can be said of a scene, in English, Japanese and Thai: captions, questions, sums, facts.

Names and keywords are CLDR's; the sentences around them are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .scenes import Scene
from .world import Concept


@dataclass(frozen=True)
class Phrases:
    """One language's sentences. Fields hold `str.format` patterns."""

    describe: str
    one: tuple[str, ...]  # captions of a single thing: size, a, ground, place
    two: tuple[str, ...]  # captions of two things: a, b, ground, place
    what: str
    left: str
    right: str
    where: str
    related: str  # asked beside a picture
    facts: tuple[str, ...]  # asked in text, of {a}
    count: str  # {m} of {a} and {n} of {b}: how many {a}?
    total: str
    remain: str
    grounds: dict[str, str]
    places: dict[str, str]
    sizes: dict[str, str]


PHRASES = {
    "en": Phrases(
        describe="Describe the picture.",
        one=(
            "{size} {a} {ground}",
            "{ground} there is {size} {a}",
            "this is {size} {a} {ground}",
        ),
        two=(
            "{a} on the left and {b} on the right {ground}",
            "{ground} there are {a} and {b}",
            "{a} left of {b} {ground}",
        ),
        what="What is this?",
        left="What is on the left?",
        right="What is on the right?",
        where="Where is it?",
        related="What goes with this?",
        facts=("What goes with {a}?", "Which one goes with {a}?"),
        count="There are {m} {a} and {n} {b}. How many {a}?",
        total="There are {m} {a} and {n} {b}. How many in all?",
        remain="There are {m} {a}. {n} go away. How many are left?",
        grounds={
            "grass": "on the grass",
            "sand": "on the sand",
            "snow": "in the snow",
            "night": "under the night sky",
            "sea": "by the sea",
        },
        places={g: g for g in ("grass", "sand", "snow", "night", "sea")},
        sizes={"small": "small", "big": "big"},
    ),
    "ja": Phrases(
        describe="絵を説明してください。",
        one=(
            "{ground}{size}{a}があります",
            "{ground}{size}{a}が見えます",
            "{size}{a}が{ground}ある絵です",
        ),
        two=(
            "{ground}左に{a}、右に{b}があります",
            "{ground}{a}と{b}があります",
            "左は{a}、右は{b}、場所は{place}です",
        ),
        what="これは何ですか。",
        left="左にあるのは何ですか。",
        right="右にあるのは何ですか。",
        where="場所はどこですか。",
        related="これと関係があるのは何ですか。",
        facts=("{a}と関係があるのは何ですか。", "{a}といえば何ですか。"),
        count="{a}が{m}、{b}が{n}あります。{a}はいくつですか。",
        total="{a}が{m}、{b}が{n}あります。全部でいくつですか。",
        remain="{a}が{m}あります。{n}なくなりました。残りはいくつですか。",
        grounds={
            "grass": "草の上に",
            "sand": "砂の上に",
            "snow": "雪の中に",
            "night": "夜空の下に",
            "sea": "海のそばに",
        },
        places={"grass": "草", "sand": "砂", "snow": "雪", "night": "夜", "sea": "海"},
        sizes={"small": "小さな", "big": "大きな"},
    ),
    "th": Phrases(
        describe="อธิบายภาพนี้",
        one=(
            "มี{a}{size}อยู่{ground}",
            "เห็น{a}{size}{ground}",
            "ภาพนี้คือ{a}{size}{ground}",
        ),
        two=(
            "มี{a}ทางซ้ายและ{b}ทางขวา{ground}",
            "{ground}มี{a}และ{b}",
            "ทางซ้ายคือ{a} ทางขวาคือ{b} ที่{place}",
        ),
        what="นี่คืออะไร",
        left="ทางซ้ายคืออะไร",
        right="ทางขวาคืออะไร",
        where="อยู่ที่ไหน",
        related="สิ่งนี้เกี่ยวข้องกับอะไร",
        facts=("{a}เกี่ยวข้องกับอะไร", "อะไรเกี่ยวข้องกับ{a}"),
        count="มี{a} {m} และ{b} {n} มี{a}เท่าไร",
        total="มี{a} {m} และ{b} {n} ทั้งหมดเท่าไร",
        remain="มี{a} {m} หายไป {n} เหลือเท่าไร",
        grounds={
            "grass": "บนหญ้า",
            "sand": "บนทราย",
            "snow": "ในหิมะ",
            "night": "ใต้ฟ้ายามค่ำ",
            "sea": "ริมทะเล",
        },
        places={"grass": "หญ้า", "sand": "ทราย", "snow": "หิมะ", "night": "กลางคืน", "sea": "ทะเล"},
        sizes={"small": "ขนาดเล็ก", "big": "ขนาดใหญ่"},
    ),
}


@dataclass(frozen=True)
class Question:
    """A question with every accepted answer, the best first."""

    text: str
    answers: tuple[str, ...]


def captions(scene: Scene, language: str) -> tuple[str, ...]:
    """Reference captions of `scene`, the plainest first."""
    say = PHRASES[language]
    words = {
        "ground": say.grounds[scene.ground],
        "place": say.places[scene.ground],
        "a": scene.things[0].names[language],
    }
    if len(scene.things) == 1:
        return tuple(t.format(size=say.sizes[scene.size], **words) for t in say.one)
    return tuple(t.format(b=scene.things[1].names[language], **words) for t in say.two)


def questions(scene: Scene, language: str) -> dict[str, Question]:
    """What can be asked of `scene`, by kind: thing, left, right, where, related."""
    say = PHRASES[language]

    def naming(text: str, thing: Concept) -> Question:
        return Question(text, (thing.names[language], *thing.synonyms[language]))

    asked = {"where": Question(say.where, (say.places[scene.ground],))}
    if len(scene.things) == 1:
        (thing,) = scene.things
        asked["thing"] = naming(say.what, thing)
        if thing.keywords[language]:
            asked["related"] = Question(say.related, related(thing, language))
    else:
        asked["left"] = naming(say.left, scene.things[0])
        asked["right"] = naming(say.right, scene.things[1])
    return asked


def related(thing: Concept, language: str) -> tuple[str, ...]:
    """The keywords of `thing`, those that few other concepts share first."""
    first = thing.synonyms[language]
    return (*first, *(k for k in thing.keywords[language] if k not in first))


def notes(scene: Scene, language: str, rng: np.random.Generator) -> Iterator[str]:
    """The scene in words, in random order, again and again: what text has in place of a picture."""
    say = PHRASES[language]
    names = [thing.names[language] for thing in scene.things]
    if len(names) == 1:
        parts = [f"{say.sizes[scene.size]} {names[0]}", names[0]]
    else:
        parts = [f"{SIDES[language][i]} {name}" for i, name in enumerate(names)]
    parts.append(say.places[scene.ground])
    while True:
        yield from (parts[i] for i in rng.permutation(len(parts)))


SIDES = {"en": ("left", "right"), "ja": ("左", "右"), "th": ("ซ้าย", "ขวา")}
