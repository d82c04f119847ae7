"""Run with the peer's python: `peer_merge.py CONFIG OUTPUT` merges as mergekit's command does."""

import sys

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

with open(sys.argv[1], encoding="utf-8") as file:
    config = MergeConfiguration.model_validate(yaml.safe_load(file))
run_merge(
    config, sys.argv[2], MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False)
)
