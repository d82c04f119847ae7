"""VQA accuracy: agreement with ten people's answers (Antol et al., 1505.00468)."""

import re
from collections.abc import Sequence

import evaluate

from vlmmerge.metrics.module import metric_info, pairs, scored
from vlmmerge.metrics.text import fold

ANNOTATORS = 10

_CONTRACTIONS = """
aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've
couldnt've:couldn't've didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've
hadn'tve:hadn't've hasnt:hasn't havent:haven't hed:he'd hed've:he'd've he'dve:he'd've hes:he's
howd:how'd howll:how'll hows:how's Id've:I'd've I'dve:I'd've Im:I'm Ive:I've isnt:isn't itd:it'd
itd've:it'd've it'dve:it'd've itll:it'll let's:let's maam:ma'am mightnt:mightn't
mightnt've:mightn't've mightn'tve:mightn't've mightve:might've mustnt:mustn't mustve:must've
neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at 'ows'at:'ow's'at
'ow'sat:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've she's:she's shouldve:should've
shouldnt:shouldn't shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd
somebodyd've:somebody'd've somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's
someoned:someone'd someoned've:someone'd've someone'dve:someone'd've someonell:someone'll
someones:someone's somethingd:something'd somethingd've:something'd've
something'dve:something'd've somethingll:something'll thats:that's thered:there'd
thered've:there'd've there'dve:there'd've therere:there're theres:there's theyd:they'd
theyd've:they'd've they'dve:they'd've theyll:they'll theyre:they're theyve:they've twas:'twas
wasnt:wasn't wed've:we'd've we'dve:we'd've weve:we've werent:weren't whatll:what'll whatre:what're
whats:what's whatve:what've whens:when's whered:where'd wheres:where's whereve:where've whod:who'd
whod've:who'd've who'dve:who'd've wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're
whys:why's wont:won't wouldve:would've wouldnt:wouldn't wouldnt've:wouldn't've
wouldn'tve:wouldn't've yall:y'all yall'll:y'all'll y'allll:y'all'll yall'd've:y'all'd've
y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd youd've:you'd've you'dve:you'd've youll:you'll
youre:you're youve:you've
"""
CONTRACTIONS = dict(pair.split(":") for pair in _CONTRACTIONS.split())
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(\d)(\,)(\d)")


def normalise(answer: str, nfkc: bool = False) -> str:
    """An answer as the official script compares it.

    `nfkc` first folds full-width forms and drops CJK punctuation, for answers in those scripts.
    """
    if nfkc:
        answer = fold(answer)
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    without = answer
    for mark in PUNCTUATION:
        # The script's rule: a mark goes if it touches a space or the text has a number with a
        # comma, and turns into a space otherwise.
        spaced = f"{mark} " in answer or f" {mark}" in answer
        without = without.replace(mark, "" if spaced or _COMMA_IN_NUMBER.search(answer) else " ")
    without = _PERIOD.sub("", without)
    words = (NUMBERS.get(word, word) for word in without.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(
    prediction: str, answers: Sequence[str], any_match: bool, strict: bool, nfkc: bool
) -> float:
    """Mean over annotators of min(1, agreeing others / 3); `any_match`: 1 if any answer agrees."""
    if strict and len(set(answers)) == 1 and not any_match:
        # The 2017 script compares raw text where all ten agree.
        found, targets = prediction.replace("\n", " ").replace("\t", " ").strip(), list(answers)
    else:
        found, targets = normalise(prediction, nfkc), [normalise(a, nfkc) for a in answers]
    if any_match:
        return float(found in targets)
    agreeing = sum(found == target for target in targets)
    return sum(min(1.0, (agreeing - (found == target)) / 3) for target in targets) / len(targets)


class VqaAccuracy(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], any_match=None, strict=False, nfkc=False)`.

    Returns `vqa_accuracy` in [0, 1] and `per_example`. `any_match`: one agreeing answer is enough;
    None: where there are fewer than ten. `strict`: the 2017 script, which leaves answers as they
    are where all ten agree. `tokenizer` is taken and not used: every metric has it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__, VqaAccuracy.__doc__, "Antol et al., VQA: Visual Question Answering, 2015"
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str | None = None,
        any_match: bool | None = None,
        strict: bool = False,
        nfkc: bool = False,
    ) -> dict[str, object]:
        scores = [
            accuracy(
                prediction,
                answers,
                len(answers) < ANNOTATORS if any_match is None else any_match,
                strict,
                nfkc,
            )
            for prediction, answers in pairs(predictions, references)
        ]
        return scored("vqa_accuracy", scores)
