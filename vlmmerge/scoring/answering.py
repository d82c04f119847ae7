"""What a model says to a batch of prompts: greedy answers, log-likelihoods of what may follow."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from threading import Lock
from typing import TYPE_CHECKING, Any

from vlmmerge.scoring.cache import Held, Reader
from vlmmerge.scoring.encoding import Encoded, Encoder
from vlmmerge.scoring.inputs import Inputs
from vlmmerge.scoring.parsing import cut
from vlmmerge.scoring.sharing import Shared, Sharing, refuse_nan, shortened

if TYPE_CHECKING:
    import torch

ROOM = 64  # tokens that a cache grows by
WORTH = 0.2  # share of tokens not read twice from which a second pass pays

Scores = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Part:
    """Rows of a batch that were read together; the i-th of `rows` is the i-th held."""

    rows: tuple[int, ...]
    held: Held


class Answering:
    """One model, a batch at a time. Caches of keys and values never outlive the batch."""

    def __init__(self, model: Any, encoder: Encoder, inputs: Inputs) -> None:
        self._model = model
        self._encoder = encoder
        self._inputs = inputs
        self._reader = Reader(model)
        self.sharing = Sharing(model, inputs, self._reader)
        self._alone = Lock()

    def generate(
        self, prompts: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]
    ) -> list[tuple[str, int]]:
        """Greedy answers up to the first of `stop`, and how many tokens each took."""
        import torch

        shared = self.sharing.of(prompts)
        with torch.inference_mode():
            if not shared.continues:
                return self._generate_plainly(prompts, max_new_tokens, stop)
            answers: dict[int, tuple[str, int]] = {}
            for part in self._read(prompts, shared, max_new_tokens):
                asked = [prompts[i] for i in part.rows]
                answered = self._decode(part.held, asked, max_new_tokens, stop)
                answers |= zip(part.rows, answered, strict=True)
        return [answers[i] for i in range(len(prompts))]

    def log_likelihoods(self, prompts: Sequence[Encoded]) -> list[float]:
        """Of every prompt's one option, summed over its tokens."""
        import torch

        shared = self.sharing.of(prompts)
        with torch.inference_mode():
            if not shared.continues:
                return self._weigh_plainly(prompts, shared)
            asked = list({(row.pictures, row.ids): row for row in prompts}.values())
            place = {(row.pictures, row.ids): i for i, row in enumerate(asked)}
            found = [0.0] * len(prompts)
            for part in self._read(asked, shared, 0):
                there = {row: i for i, row in enumerate(part.rows)}
                of = {i: there.get(place[row.pictures, row.ids]) for i, row in enumerate(prompts)}
                mine = {i: row for i, row in of.items() if row is not None}
                options = [prompts[i].options[0] for i in mine]
                weighed = self._weigh(part.held, list(mine.values()), options)
                for i, value in zip(mine, weighed, strict=True):
                    found[i] = value
        return found

    def _read(self, rows: Sequence[Encoded], shared: Shared, room: int) -> Iterator[Part]:
        """Have the rows read, what several begin with once."""
        groups = self._groups(rows, room) if shared.prefixes else {}
        together = tuple(i for group in groups.values() for i in group)
        if together:
            prefixes = [shortened(rows[group[0]], at) for (_, at), group in groups.items()]
            held = self.sharing.begin(prefixes, 0)
            refuse_nan(held.logits)
            places = [n for n, group in enumerate(groups.values()) for _ in group]
            rests = [rows[i].ids[at:] for (_, at), group in groups.items() for i in group]
            yield Part(together, self._reader.extend(held, places, rests, room=min(room, ROOM)))
        rest = tuple(i for i in range(len(rows)) if i not in set(together))
        if rest:
            yield Part(rest, self.sharing.begin([rows[i] for i in rest], min(room, ROOM)))

    def _groups(
        self, rows: Sequence[Encoded], room: int
    ) -> dict[tuple[tuple[str, ...], int], list[int]]:
        """Rows on the same pictures, by them and the length of what they begin with.

        None where that saves too little.
        """
        alike: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(rows):
            alike.setdefault(row.pictures, []).append(i)
        groups = {}
        for pictures, group in alike.items():
            ids = [rows[i].ids for i in group]
            # What the first and the last in order have in common, all have.
            pair = zip(min(ids), max(ids), strict=False)
            common = sum(1 for _ in takewhile(lambda two: two[0] == two[1], pair))
            at = min(common, min(map(len, ids)) - 1)
            if len(group) > 1 and at and all(self.sharing.cut(rows[i], at, room) for i in group):
                groups[pictures, at] = group
        saved = sum((len(group) - 1) * at for (_, at), group in groups.items())
        return groups if saved >= WORTH * sum(len(row.ids) for row in rows) else {}

    def _decode(
        self, held: Held, prompts: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]
    ) -> list[tuple[str, int]]:
        import torch

        ends, scores = self._generation(prompts, max_new_tokens)
        written: list[list[int]] = [[] for _ in prompts]
        going = list(range(len(prompts)))  # the prompt that each held row belongs to
        done: set[int] = set()
        for step in range(max_new_tokens):
            logits = held.logits[:, -1]
            refuse_nan(logits)
            if scores:
                # Row by row: padding would count as said before.
                said = [[*prompts[i].ids, *written[i]] for i in going]
                logits = torch.cat(
                    [
                        scores(torch.tensor([ids], device=row.device), row[None].float())
                        for ids, row in zip(said, logits, strict=True)
                    ]
                )
            chosen = logits.argmax(-1)
            for i, token in zip(going, chosen.tolist(), strict=True):
                if i not in done:
                    written[i].append(token)
                    if token in ends or self._stops(written[i], stop):
                        done.add(i)
            left = [row for row, i in enumerate(going) if i not in done]
            if not left or step == max_new_tokens - 1:
                break
            if 2 * len(left) <= len(going):
                held = self._reader.select(held, left, ROOM)
                going = [going[row] for row in left]
                chosen = chosen[left]
            held = self._reader.extend(held, None, chosen[:, None].tolist())
        return self._texts(written, stop)

    def _generation(
        self, prompts: Sequence[Encoded], max_new_tokens: int
    ) -> tuple[set[int], Scores | None]:
        """The tokens that end an answer, and what the model's settings make of scores, if at all.

        The names are transformers' own: there is no public way to a model's processors.
        """
        config = self._config(max_new_tokens)
        prepared, _ = self._model._prepare_generation_config(config)
        self._model._prepare_special_tokens(prepared, True, device=self._model.device)
        width = max(len(row.ids) for row in prompts)
        scores = self._model._get_logits_processor(
            generation_config=prepared, input_ids_seq_length=width, device=self._model.device
        )
        return _ends(config), scores if len(scores) else None

    def _config(self, max_new_tokens: int) -> Any:
        import transformers

        defaults = self._model.generation_config
        tokenizer = self._encoder.tokenizer
        pad = tokenizer.pad_token_id
        kind: Any = transformers.GenerationConfig
        return kind(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=defaults.eos_token_id or tokenizer.eos_token_id,
            pad_token_id=defaults.eos_token_id if pad is None else pad,
        )

    def _stops(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        if not stop:
            return False
        text: str = self._encoder.tokenizer.decode(tokens)
        return any(end in text for end in stop)

    def _texts(
        self, written: Sequence[Sequence[int]], stop: Sequence[str]
    ) -> list[tuple[str, int]]:
        """Answers as text, cut where they were to stop."""
        texts = [cut(text, stop) for text in self._encoder.decode(written)]
        return [(text, len(tokens)) for text, tokens in zip(texts, written, strict=True)]

    def _generate_plainly(
        self, prompts: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]
    ) -> list[tuple[str, int]]:
        """By transformers' own loop."""
        from transformers import LogitsProcessorList

        config = self._config(max_new_tokens)
        inputs = self._inputs.collate(prompts)
        if self._inputs.shares_features:
            inputs |= self._inputs.sizes(prompts)
        # Models that remember positions between calls cannot answer two batches at once.
        with self._alone:
            produced = self._model.generate(
                **inputs,
                generation_config=config,
                logits_processor=LogitsProcessorList([_checked]),
            )[:, inputs["input_ids"].shape[1] :]
        written = []
        ends = _ends(config)
        for row in produced.tolist():
            kept = list(takewhile(lambda token: token not in ends, row))
            kept = row[: len(kept) + 1]
            while self._stops(kept[:-1], stop):
                kept.pop()
            written.append(kept)
        return self._texts(written, stop)

    def _weigh(
        self, held: Held, rows: Sequence[int], options: Sequence[Sequence[int]]
    ) -> list[float]:
        """Log-likelihoods of options behind held rows."""
        import torch

        firsts = held.logits[:, -1:]
        refuse_nan(firsts)
        behind: torch.Tensor | None = None
        width = max(len(option) for option in options) - 1
        if width > 0:
            # Of an option of one token nothing needs to be read; its row reads what is not used.
            read = [option[:-1] or option for option in options]
            behind = self._reader.extend(held, rows, read, keep=width, side="right").logits
            refuse_nan(behind)
        found = []
        for n, (row, option) in enumerate(zip(rows, options, strict=True)):
            predicted = firsts[row]
            if behind is not None:
                predicted = torch.cat([predicted, behind[n, : len(option) - 1]])
            found.append(_summed(predicted[: len(option)], option))
        return found

    def _weigh_plainly(self, prompts: Sequence[Encoded], shared: Shared) -> list[float]:
        whole = [self.sharing.continued(row, row.options[0], shared.fill) for row in prompts]
        inputs = self._inputs.collate([replace(row, options=()) for row in whole], side="right")
        with self._alone:
            logits = self._model(**inputs, use_cache=False).logits
        found = []
        for row, prompt in zip(logits, prompts, strict=True):
            start, option = len(prompt.ids), prompt.options[0]
            predicted = row[start - 1 : start - 1 + len(option)]
            refuse_nan(predicted)
            found.append(_summed(predicted, option))
        return found


def _summed(predicted: "torch.Tensor", option: Sequence[int]) -> float:
    """The log-likelihood of tokens by the logits [tokens, vocabulary] before each."""
    import torch

    target = torch.tensor(option, device=predicted.device, dtype=torch.long)[:, None]
    return float(predicted.float().log_softmax(-1).gather(1, target).sum())


def _ends(config: Any) -> set[int]:
    ends = config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends])


def _checked(input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    refuse_nan(scores)
    return scores
