"""Makers of the embedded checkpoints; `tools/make_quickstart.py` is the story that calls them."""
