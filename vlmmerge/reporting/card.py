"""The model card of a merge: README.md of the model folder."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from vlmmerge.recipes import Recipe


def model_card(
    recipe: Recipe,
    told: Sequence[str] = (),
    results: Mapping[str, Any] | None = None,
    verdict: str = "",
) -> str:
    """A card in the hub's form: front matter, recipe, and the holdout table of a search.

    `told`: what the alignment of the models warns of and notes, a line each.
    """
    models = recipe.models
    named = [models.recipient.path, *(donor.path for donor in models.donors.values())]
    # Only ids of the hub may stand in the front matter.
    front = {
        "library_name": "transformers",
        "tags": ["merge", "vlmmerge"],
        "base_model": [path for path in named if path.count("/") == 1 and path[0] not in "./~"],
    }
    head = yaml.safe_dump({k: v for k, v in front.items() if v}, sort_keys=False)
    written = yaml.safe_dump(recipe.to_config(), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{head}---\n", "# A merge by vlmmerge\n", verdict and f"{verdict}\n"]
    if results is not None:
        parts += ["## Holdout\n", _table(results)]
    if told:
        parts += ["## About the models\n", "".join(f"- {escape(line)}\n" for line in told)]
    parts += ["## Recipe\n", f"```yaml\n{written}```\n"]
    return "\n".join(part for part in parts if part)


def _table(results: Mapping[str, Any]) -> str:
    systems = list(results["objective"]["search"])
    lines = [f"| task | {' | '.join(systems)} |", f"|---|{'---|' * len(systems)}"]
    for task, by in results["holdout"].items():
        cells = [
            f"{by[s]['mean']:.3f} ({by[s]['low']:.3f} to {by[s]['high']:.3f})"
            if s in by
            else "failed"
            for s in systems
        ]
        lines.append(f"| {task} ({results['tasks'][task]['metric']}) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\nMeans with 95 % bootstrap intervals.\n"
