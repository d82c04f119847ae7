"""Statistics of a model on examples: what its weights matter for, and what its layers see."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vlmmerge.errors import EngineError, TaskError
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.runner import Runner
from vlmmerge.tasks import Example, Task, letters

if TYPE_CHECKING:
    import torch


@dataclass
class Statistics:
    """Of a backbone, by live names, float32.

    `fisher`: the mean over examples of the squared gradient of the log-likelihood of the reference
    answer, of each tensor's shape. `gram`: the mean over tokens of x x^T of the inputs x of every
    linear layer, [columns, columns].
    """

    fisher: "dict[str, torch.Tensor]" = field(default_factory=dict)
    gram: "dict[str, torch.Tensor]" = field(default_factory=dict)
    examples: int = 0
    tokens: int = 0


def answered(runner: Runner, task: Task, example: Example) -> Encoded:
    """An example's prompt, its first reference the one option.

    Raises `TaskError` where the reference has no tokens.
    """
    if task.kind == "multiple_choice" and task.scored == "letter":
        place = example.options.index(example.references[0])
        text = task.delimiter + letters(len(example.options))[place]
    else:
        text = task.delimiter + example.references[0]
    encoded = runner.encoder.encode(task, replace(example, options=()))
    answer = tuple(runner.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
    if not answer:
        raise TaskError(f"tasks.{task.name}: row {example.id} has an empty reference answer")
    return replace(encoded, options=(answer,))


def gather(
    runner: Runner, rows: Sequence[Encoded], seen: Callable[[int], None] = lambda n: None
) -> Statistics:
    """Statistics over rows, each with one option, its answer; one row at a time.

    Gradients are squared and let go of tensor by tensor. `seen` hears how many rows are done.
    Raises `EngineError` where the logits are not numbers.
    """
    for row in {bool(row.pictures): row for row in rows}.values():
        runner.answered(row)  # the first of a kind has the model tried, which is not to count
    found = Statistics()
    with _watched(runner, found):
        for row in rows:
            _read(runner, row)
            found.examples += 1
            found.tokens += len(row.ids) + len(row.options[0])
            seen(found.examples)
    for tensor in found.fisher.values():
        tensor /= max(1, found.examples)
    for tensor in found.gram.values():
        tensor /= max(1, found.tokens)
    return found


def _read(runner: Runner, row: Encoded) -> None:
    """Pass a row forward, and the log-likelihood of its answer back."""
    import torch

    (answer,) = row.options
    logits = runner.model(**runner.answered(row), use_cache=False).logits[0]
    predicted = logits[len(row.ids) - 1 : len(row.ids) - 1 + len(answer)].float()
    target = torch.tensor(answer, device=predicted.device)[:, None]
    likelihood = predicted.log_softmax(-1).gather(1, target).sum()
    if not bool(likelihood.isfinite()):
        raise EngineError("the model's logits are not numbers")
    likelihood.backward()


@contextmanager
def _watched(runner: Runner, found: Statistics) -> Iterator[None]:
    """Have the model add to `found` as it is read; leave it as it was."""
    import torch

    model, backbone = runner.model, runner.anatomy.backbone
    parameters = dict(model.named_parameters())
    needed = {name: p.requires_grad for name, p in parameters.items()}
    hooks: list[Any] = []
    for name, shape in backbone.items():
        device = parameters[name].device if name in parameters else model.device
        found.fisher[name] = torch.zeros(shape, device=device)
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in backbone)
            if name in backbone:
                hook = _squaring(found.fisher[name])
                hooks.append(parameter.register_post_accumulate_grad_hook(hook))
        looked_up = model.get_input_embeddings().weight
        for name, module in model.named_modules():
            # A head that is tied is a table of embeddings as well, which no regression is for.
            if (
                isinstance(module, torch.nn.Linear)
                and f"{name}.weight" in backbone
                and module.weight is not looked_up
            ):
                square = torch.zeros(module.in_features, module.in_features, device=model.device)
                found.gram[f"{name}.weight"] = square
                hooks.append(module.register_forward_pre_hook(_multiplying(square)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in parameters.items():
            parameter.requires_grad_(needed[name])
            parameter.grad = None


def _squaring(into: "torch.Tensor") -> "Callable[[torch.Tensor], None]":
    def squared(parameter: "torch.Tensor") -> None:
        assert parameter.grad is not None
        into.add_(parameter.grad.float() ** 2)
        parameter.grad = None

    return squared


def _multiplying(into: "torch.Tensor") -> Callable[[Any, Any], None]:
    def multiplied(module: Any, inputs: Any) -> None:
        x = inputs[0].detach().reshape(-1, into.shape[0]).float()
        into.add_(x.T @ x)

    return multiplied
