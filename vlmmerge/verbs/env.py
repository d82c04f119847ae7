"""vlmmerge env: versions of what a run depends on."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "vlmmerge",
    "torch",
    "transformers",
    "peft",
    "cma",
    "pillow",
    "evaluate",
    "datasets",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
)


def run(words: Sequence[str]) -> None:
    """Print versions, for a bug report."""
    print(f"{'python':<18}{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        print(f"{package:<18}{found}")
