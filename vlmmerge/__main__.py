"""`python -m vlmmerge` is `vlmmerge`."""

from vlmmerge.cli import main

main()
