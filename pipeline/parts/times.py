"""Columns of dates as numbers: how long ago, what time of day, what day of the week.

All dates are taken to UTC; one without a time zone is taken for UTC. So the time of day is that of UTC too: where
a place's own clock matters, let the source hold its time without a zone.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.parts.standard import moments

DTYPE = "datetime64[us, UTC]"
DAY = 86_400_000_000  # microseconds
MISSING = np.iinfo(np.int64).min
ISO = r"\d{4}-\d\d-\d\d(?:[T ].*)?"
EPOCH = 3  # 1 January 1970 was a Thursday, three days after a Monday


def dates(column: pd.Series) -> pd.Series:
    """A column of dates (also as Python objects) as datetime64[us, UTC], NaT where missing."""
    plain = column.astype(object) if isinstance(column.dtype, pd.CategoricalDtype) else column
    return pd.to_datetime(plain, utc=True).astype(DTYPE)


def written(column: pd.Series) -> pd.Series | None:
    """Texts as dates, where every value that is not missing is a date in ISO 8601 (2024-01-31, 2024-01-31T09:30+02:00);
    None where one is not, or all are missing."""
    known = column.dropna().astype("str")
    if not len(known) or not known[:1].str.fullmatch(ISO).all() or not known.str.fullmatch(ISO).all():
        return None
    found = pd.to_datetime(known, utc=True, errors="coerce", format="ISO8601")
    return None if found.isna().any() else found.astype(DTYPE).reindex(column.index)


def microseconds(column: pd.Series) -> np.ndarray:
    """int64 `(n,)` since 1970, MISSING for NaT."""
    return dates(column).to_numpy("datetime64[us]").astype(np.int64)


def learn(column: pd.Series) -> dict[str, Any]:
    """Median (a date that came), mean and deviation in days, and whether time of day and day of the week vary."""
    known = np.sort(microseconds(column))
    known = known[known != MISSING]
    mean, deviation = moments(known / DAY)
    vary = {"hours": bool(np.ptp(known % DAY) > 0), "weekdays": bool(np.ptp(_weekday(known)) > 0)}
    return {"median": int(known[(len(known) - 1) // 2]), "mean": mean, "deviation": deviation, **vary}


def names(learned: dict[str, Any]) -> list[str]:
    """The encoded columns of one column of dates."""
    cycles = [name for name, kept in (("hour", learned["hours"]), ("weekday", learned["weekdays"])) if kept]
    return [learned["name"], *(f"{learned['name']}:{cycle} {f}" for cycle in cycles for f in ("sin", "cos"))]


def encode(column: pd.Series, learned: dict[str, Any]) -> np.ndarray:
    """float64 `(n, 1, 3 or 5)`: standardised days, then sine and cosine of time of day and day of the week, where these
    varied in training. A missing date counts as the median."""
    came = microseconds(column)
    came[came == MISSING] = learned["median"]
    encoded = [(came / DAY - learned["mean"]) / learned["deviation"]]
    angles = []
    if learned["hours"]:
        angles.append(came % DAY * (2 * np.pi / DAY))
    if learned["weekdays"]:
        angles.append(_weekday(came) * (2 * np.pi / 7))
    for angle in angles:
        encoded += [np.sin(angle), np.cos(angle)]
    return np.stack(encoded, axis=1)


def typical(learned: dict[str, Any]) -> pd.Timestamp:
    """The median date."""
    return pd.Timestamp(learned["median"], unit="us", tz="UTC")


def _weekday(came: np.ndarray) -> np.ndarray:
    """0 for Monday to 6 for Sunday."""
    return (came // DAY + EPOCH) % 7
