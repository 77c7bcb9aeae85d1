"""What can go wrong, each in one sentence for the person who runs the line.

A message says what was wrong, what is allowed, what came, and where.
"""


class AssayError(Exception):
    """Anything that a person can put right; stages and flows print the sentence and end with status 1."""


class ParamsError(AssayError):
    """params.yaml holds a key, a type or a value that is not allowed."""


class DataError(AssayError):
    """Raw data, a sample, a manifest or a column is not what it must be."""


class PromiseError(AssayError):
    """The calibration data cannot carry the promise that was asked for."""


class NotFittedError(AssayError):
    """`score` or `state` was called before `fit`."""


class ModelError(AssayError):
    """A model folder is incomplete, damaged, or of another version."""


class RegistryError(AssayError):
    """MLflow cannot be reached, or does not hold what was asked for."""


class LineError(AssayError):
    """A stage of the line, or a tool that it runs, failed."""


class DeliveryError(AssayError):
    """Scores cannot be brought to where params say they go."""
