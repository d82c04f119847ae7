"""What a run keeps beside its results: its config, and a log of what it said."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

# Lines that the terminal shows in a form of its own; it goes to log files alone.
LOG = logging.getLogger("vlmmerge")
LOG.setLevel(logging.INFO)
LOG.propagate = False
LOG.addHandler(logging.NullHandler())


@contextmanager
def recorded(node: DictConfig, folder: Path, verb: str) -> Iterator[None]:
    """Keep config.yaml and <verb>.log in `folder`: our lines, others' warnings, a traceback.

    A resumed run adds to its log.
    """
    if not (folder / "config.yaml").exists():
        OmegaConf.save(node, folder / "config.yaml")
    handler = logging.FileHandler(folder / f"{verb}.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    for logger in (LOG, root):
        logger.addHandler(handler)
    LOG.info("%s begins", verb)
    try:
        yield
        LOG.info("%s ends", verb)
    except BaseException:
        LOG.exception("%s stops", verb)
        raise
    finally:
        for logger in (LOG, root):
            logger.removeHandler(handler)
        handler.close()
