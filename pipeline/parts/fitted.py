"""What every detector says before it has learned."""

from pipeline.errors import NotFittedError


def must_be_fitted(detector: object, attribute: str) -> None:
    """Raise NotFittedError, naming the file of `detector`, when it has no fitted `attribute` yet."""
    if not hasattr(detector, attribute):
        key = type(detector).__module__.removeprefix("pipeline.detectors.").replace(".", "/")
        raise NotFittedError(f"{key} must be fitted before it can score or be saved")
