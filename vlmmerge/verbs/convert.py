"""vlmmerge convert: a recipe as mergekit's YAML, or the other way."""

from pathlib import Path

import yaml
from omegaconf import DictConfig

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.appearing import absolute
from vlmmerge.config import output_of, plain, read_yaml
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import Recipe
from vlmmerge.recipes.mergekit.reading import is_mergekit
from vlmmerge.recipes.mergekit.writing import Facts, write_mergekit


def run(node: DictConfig) -> None:
    """Read one kind, write the other."""
    source = Path(str(plain(node)["recipe"]))
    output = absolute(output_of(node))
    if output.exists():
        raise ConfigError(f"{output}: exists already; choose another output")
    recipe = Recipe.load(source)
    if is_mergekit(read_yaml(source)):
        content, kind = recipe.to_config(), "a recipe"
    else:
        facts = Facts.of(Checkpoint.open(recipe.models.recipient, "models.recipient"))
        content, kind = write_mergekit(recipe, facts), "mergekit's YAML"
    output.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    output.write_text(text, encoding="utf-8")
    print(f"{output}: {recipe.method} of {len(recipe.sources)} models, as {kind}")
