"""Ask, score, tell, journal: the search for a recipe."""

from vlmmerge.search.journal import Journal, Row
from vlmmerge.search.loop import Budget, Search, Splits

__all__ = ["Budget", "Journal", "Row", "Search", "Splits"]
