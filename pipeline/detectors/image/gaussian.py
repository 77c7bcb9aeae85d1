"""Gaussian: Mahalanobis distance of pooled deep features to the normals, summed over levels.

Rippel, Mertens and Merhof (ICPR 2020), "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for
Anomaly Detection", https://arxiv.org/abs/2005.14140. The optional map is ours, not the paper's.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from annotated_types import Ge, Gt, Lt
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from tqdm import tqdm

from pipeline.errors import DataError, NotFittedError
from pipeline.parts import features
from pipeline.parts.features import Backbone, BackboneField
from pipeline.parts.images import checked
from pipeline.protocols import Batch, Samples, Scores, State
from pipeline.samples import normals
