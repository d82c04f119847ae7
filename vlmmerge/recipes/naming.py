"""Names that a donor cannot have."""

from vlmmerge.anatomy import BASE, RECIPIENT

# Tables use them for something else than a donor.
RESERVED = (RECIPIENT, BASE, "uniform", "best", "mean")
