"""The house: imports go one way, files stay small, nothing prints from below."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "vlmmerge"
ORDER = [
    "checkpoints",
    "anatomy",
    "methods",
    "recipes",
    "merging",
    "tasks",
    "metrics",
    "scoring",
    "engines",
    "search",
    "reporting",
    "verbs",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """The modules of ours that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def folder_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "vlmmerge" and len(parts) > 1 else None


def test_every_folder_has_its_place() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(
        ORDER
    )


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    here = file.relative_to(PACKAGE).parts[0]
    if here not in ORDER:  # cli, config, errors and the package itself
        allowed = ["config", "errors", "cli"] + (ORDER if here == "__init__.py" else [])
    else:
        allowed = [*ORDER[: ORDER.index(here) + 1], "config", "errors"]
    for module in imported(file):
        folder = folder_of(module)
        assert folder is None or folder in allowed, f"{here} imports {module}"


def test_files_are_small() -> None:
    lengths = [len(file.read_text("utf-8").splitlines()) for file in FILES]
    assert max(lengths) <= 450
    assert statistics.median(lengths) < 200


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_imports_and_prints_stay_where_they_belong(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    here = file.relative_to(PACKAGE).parts[0]
    top = {
        name.split(".")[0]
        for node in tree.body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    heavy = {"torch", "transformers", "matplotlib"} | (
        set() if here == "metrics" else {"evaluate", "datasets"}
    )
    assert not top & heavy
    if here not in ("verbs", "cli.py") and file.name != "progress.py":
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not [f for f in calls if isinstance(f, ast.Name) and f.id == "print"]


def test_nothing_reads_pickles_or_remote_code() -> None:
    for file in FILES:
        text = file.read_text("utf-8")
        assert "trust_remote_code=True" not in text
        assert "import pickle" not in text
        assert "torch.load" not in text
