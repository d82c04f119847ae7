"""vlmmerge report: the page of one or more finished searches."""

from pathlib import Path

from omegaconf import DictConfig

from vlmmerge.checkpoints.appearing import appearing
from vlmmerge.config import output_of, plain
from vlmmerge.errors import ConfigError
from vlmmerge.reporting.log import recorded
from vlmmerge.reporting.page import page
from vlmmerge.search import Journal


def run(node: DictConfig) -> None:
    """Write report.html from the journals alone."""
    output = output_of(node)
    folders = plain(node)["runs"]
    folders = [folders] if isinstance(folders, str) else folders
    if not folders:
        raise ConfigError("runs: give folders of searches, as 'runs=[runs/a,runs/b]'")
    journals = [Journal.read(Path(folder) / "journal.jsonl") for folder in folders]
    for folder, journal in zip(folders, journals, strict=True):
        if not journal.finished:
            raise ConfigError(f"{folder}: the search is not finished; resume=true goes on with it")
    with appearing(output) as folder, recorded(node, folder, "report"):
        (folder / "report.html").write_text(page(journals), encoding="utf-8")
    print(output / "report.html")
