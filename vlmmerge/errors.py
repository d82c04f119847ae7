"""The errors a user can meet: one line each, saying what was wrong, where, and what to do."""


class VlmMergeError(Exception):
    """Any error of vlmmerge's own. `exit_status` is what the command line ends with."""

    exit_status = 2


class ConfigError(VlmMergeError):
    """A recipe, a config or an override that means nothing or cannot work."""


class CheckpointError(VlmMergeError):
    """A model folder that is missing, damaged or of an unknown kind."""


class AlignmentError(VlmMergeError):
    """Models whose tensors or vocabularies do not meet."""


class TaskError(VlmMergeError):
    """A task whose rows, columns, splits or metric cannot be used."""


class EngineError(VlmMergeError):
    """A run that was well asked for and failed."""

    exit_status = 1
