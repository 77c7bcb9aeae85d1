import pytest

from pipeline.detectors.image.patchcore import PatchCore
from pipeline.errors import NotFittedError
from pipeline.parts.fitted import must_be_fitted


def test_names_the_detector_that_has_not_learned_yet() -> None:
    detector = PatchCore()
    with pytest.raises(NotFittedError, match=r"^image/patchcore must be fitted before it can score or be saved$"):
        must_be_fitted(detector, "bank_")
    detector.bank_ = None
    must_be_fitted(detector, "bank_")
