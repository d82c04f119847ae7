"""The verbs of the command line: one verb is one file."""
