"""vlmmerge validate: check all that a search would check before it starts, and run nothing."""

from omegaconf import DictConfig

from vlmmerge.verbs.search import prepare


def run(node: DictConfig) -> None:
    """Build the search and say what it would be."""
    node.output = None
    prepared = prepare(node)
    search = prepared.search
    rows = sum(search.sizes[search.splits.holdout].values())
    print(
        f"good: {search.space.template.method} over {len(search.space)} coefficients,"
        f" {search.budget.candidates} candidates on"
        f" {', '.join(search.objective.searched(prepared.tasks))}; {rows} holdout rows"
    )
    for line in prepared.alignment.told:
        print(line)
