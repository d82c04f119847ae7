"""lm-eval's tasks on a live model: asked and scored by lm-eval, and the model left as it was."""

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmmerge.config import one_line
from vlmmerge.errors import EngineError
from vlmmerge.scoring.language import LanguageCheck
from vlmmerge.tasks import LmEvalTask
from vlmmerge.tasks.lm_eval_loading import REFUSALS, contained

if TYPE_CHECKING:
    import torch

# What lm-eval's filters leave of an answer that they find nothing in.
_NOTHING = "[invalid]"


@dataclass(frozen=True)
class Scored:
    """lm-eval's verdicts: per row the metric and the answer; the means of all of its metrics."""

    per_example: tuple[float, ...]
    answers: tuple[str, ...]
    unparsable: int
    wrong_language: int
    metrics: dict[str, float]
    generated_tokens: int


class LmEval:
    """lm-eval bound to one live model: no response is kept, every call asks the model as it is.

    lm-eval's wrapper ties an untied head again and reseeds and switches what it wraps; here the
    model and the global generators come out as they went in.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        # A tokenizer is not for two threads, and lm-eval changes what it is given.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._wrapped: dict[int, Any] = {}
        self._requests: dict[LmEvalTask, list[list[Any]]] = {}

    def score(self, task: LmEvalTask, split: str, rows: Sequence[int]) -> Scored:
        """Score rows of a split. Raises `EngineError` where the model or lm-eval fails."""
        places = task.documents(split)
        chosen = [self._fresh(task, places[row]) for row in rows]
        with untouched(self._model), _checked(self._model):
            try:
                self._answer(task, [request for asked in chosen for request in asked])
                return self._judged(task, chosen)
            except REFUSALS as error:
                raise EngineError(f"{task.where}: lm-eval failed ({one_line(error)})") from error

    def _fresh(self, task: LmEvalTask, place: int) -> list[Any]:
        """A document's requests, without answers."""
        if task not in self._requests:
            template = self._lm(task.batch).apply_chat_template if task.chat else None
            self._requests[task] = task.requests(template)
        return [
            replace(request, resps=[], filtered_resps={}) for request in self._requests[task][place]
        ]

    def _answer(self, task: LmEvalTask, requests: Sequence[Any]) -> None:
        by_type: dict[str, list[Any]] = defaultdict(list)
        for request in requests:
            by_type[request.request_type] += [request] * request.repeats
        lm = self._lm(task.batch)
        ask = {
            "loglikelihood": lm.loglikelihood,
            "loglikelihood_rolling": lm.loglikelihood_rolling,
            "generate_until": lm.generate_until,
        }
        for kind, asked in by_type.items():
            for request, answer in zip(asked, ask[kind](asked, disable_tqdm=True), strict=True):
                request.resps.append(answer)
        # lm-eval's filters go over what a task holds.
        task.loaded._instances = list(requests)
        task.loaded.apply_filters()

    def _judged(self, task: LmEvalTask, chosen: Sequence[Sequence[Any]]) -> Scored:
        found: dict[str, list[float]] = {name: [] for name in task.means}
        answers = []
        tokens = unparsable = 0
        for requests in chosen:
            left = [request.filtered_resps[task.filtered_by] for request in requests]
            verdict = task.loaded.process_results(requests[0].doc, left)
            if task.metric not in verdict:
                raise EngineError(f"{task.where}: lm-eval gives a row no {task.metric}")
            for name, values in found.items():
                if name in verdict:
                    values.append(float(verdict[name]))
            answers.append(_answer_of(task, requests, left))
            unparsable += answers[-1] == _NOTHING
            if requests[0].request_type == "generate_until":
                tokens += sum(len(self._tokenizer.encode(r)) for r in requests[0].resps)
        return Scored(
            tuple(found[task.metric]),
            tuple(answers),
            unparsable,
            self._strange(task, chosen, answers),
            {name: math.fsum(v) / len(v) for name, v in found.items() if v},
            tokens,
        )

    def _strange(
        self, task: LmEvalTask, chosen: Sequence[Sequence[Any]], answers: Sequence[str]
    ) -> int:
        """How many answers are in another language than the task's."""
        if task.language is None:
            return 0
        check = LanguageCheck.of(task.language)
        targets = [task.references(requests[0].doc_id) for requests in chosen]
        return sum(check.is_wrong(a, t) for a, t in zip(answers, targets, strict=True))

    def _lm(self, batch: int) -> Any:
        if batch not in self._wrapped:
            from lm_eval.models.huggingface import HFLM

            with untouched(self._model), _left_untied(self._model):
                # lm-eval knows language models by name; one inside of a VLM it would not find.
                self._wrapped[batch] = HFLM(
                    pretrained=self._model,
                    backend="causal",
                    tokenizer=self._tokenizer,
                    batch_size=batch,
                )
        return self._wrapped[batch]


def _answer_of(task: LmEvalTask, requests: Sequence[Any], left: Sequence[Any]) -> str:
    """What the model chose, or wrote."""
    if task.loaded.OUTPUT_TYPE != "multiple_choice":
        first = left[0]
        return str(first[0] if isinstance(first, list | tuple) and first else first)
    options = task.loaded.doc_to_choice(requests[0].doc)
    scores = [score for score, _ in left[: len(options)]]
    scales = {
        "acc_norm": [len(option) for option in options],
        "acc_bytes": [len(option.encode()) for option in options],
    }.get(task.metric, [1] * len(options))
    best = int(np.argmax([s / max(1, scale) for s, scale in zip(scores, scales, strict=True)]))
    return str(options[best])


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Whatever lm-eval does inside, the model's mode and the generators are as before it."""
    training = [module for module in model.modules() if module.training]
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with contained(devices):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _left_untied(model: Any) -> Iterator[None]:
    """A model that does not tie its weights when it is told to."""

    def leave(*_: object, **__: object) -> None:
        return None

    model.tie_weights = leave
    try:
        yield
    finally:
        del model.tie_weights


@contextmanager
def _checked(model: Any) -> Iterator[None]:
    """A model whose logits are an error where they are not numbers: lm-eval would score them."""
    handle = model.register_forward_hook(_refuse_nan)
    try:
        yield
    finally:
        handle.remove()


def _refuse_nan(model: Any, inputs: Any, output: Any) -> None:
    last: torch.Tensor = output.logits[:, -1]
    if bool(last.isnan().any()):
        raise EngineError("the model's logits are not numbers (NaN)")
