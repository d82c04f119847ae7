"""What the metric modules have in common: the shape of their inputs."""

import datasets
import evaluate


def metric_info(
    description: str | None, usage: str | None, citation: str = ""
) -> evaluate.MetricInfo:
    """The `evaluate.MetricInfo` of a metric that compares texts with lists of references."""
    return evaluate.MetricInfo(
        description=description or "",
        citation=citation,
        inputs_description=usage or "",
        features=datasets.Features(
            {
                "predictions": datasets.Value("string"),
                "references": datasets.Sequence(datasets.Value("string")),
            }
        ),
    )
