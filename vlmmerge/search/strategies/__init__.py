"""Strategies: who asks for the next candidates."""

from vlmmerge.search.strategies.strategy import Strategy, Vector

__all__ = ["Strategy", "Vector"]
