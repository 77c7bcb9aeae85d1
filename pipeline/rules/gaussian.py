"""The working point of a detector that assumes Gaussian features, and whether to trust it."""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import PromiseError
from pipeline.rules.conformal import Found, Known, Rate, percent


@dataclass(frozen=True)
class Gaussian:
    """The chi-square working point: what a share `alpha` of normals exceeds if the detector's features are Gaussian
    (Rippel et al., "Modeling the Distribution of Normal Data in Pre-Trained Deep Features", 2020, section 3.3).

    Calibration normals are held against that assumption by a Kolmogorov-Smirnov test."""

    alpha: Rate = 0.01
    """Share of normals that may raise an alarm, if the assumption holds."""
    trust: Rate = 0.05
    """p-value of that test below which the working point is said not to be trusted."""

    def find(self, known: Known, where: str) -> Found:
        from scipy.stats import chi2, kstest

        if not known.degrees:
            raise PromiseError(
                f"{where}.rule gaussian is for a detector that assumes Gaussian features (image/gaussian, with nothing"
                " around it); take another rule (params.yaml)"
            )
        if len(known.normals) == 0:
            raise PromiseError(f"{where}.rule gaussian needs calibration normals to test its assumption, got none")
        tails = np.concatenate([np.logspace(-16, -4, 600)[:-1], np.linspace(1e-4, 1 - 1e-9, 20_000)])
        scores = np.sum([np.sqrt(chi2.isf(tails, degree)) for degree in known.degrees], axis=0)
        uniform = np.interp(known.normals, scores[::-1], tails[::-1])
        p = float(kstest(uniform, "uniform").pvalue)
        point = float(np.float32(sum(np.sqrt(chi2.isf(self.alpha, degree)) for degree in known.degrees)))
        above = float(np.mean(known.normals > np.float32(point)))
        fits = "does not contradict it" if p >= self.trust else "contradicts it: do not trust this threshold"
        says = f"{percent(self.alpha)} of normals raise one if features are Gaussian, which the test on"
        says += f" {len(known.normals)} calibration normals {fits} (p {p:.3g}; {percent(above)} of them lie above);"
        return Found(point, None, f"{says} no rate is promised", {"fit_p_value": p, "above": above})
