"""Columns of free text as a few numbers, and how to tell free text from categories and from identifiers.

A text becomes WIDTH numbers from the trigrams of its characters (the hashing trick: Weinberger, Dasgupta, Langford,
Smola & Attenberg, "Feature Hashing for Large Scale Multitask Learning", ICML 2009), so that texts about different
things lie apart; the share of its words that training did not know; and the logarithm of its length. A leading subspace
(TruncatedSVD of tf-idf) was tried and left out: what no training text says lies outside of it, so that odd texts scored
below normal ones.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.parts.standard import moments

MOST_TEXTS = 1000  # values of one text column that can be a category
WORDS = 3  # words, between blanks, of the texts in the middle from which a column may be free text
DIFFERENT = 0.5  # share of different values above which such a column is free text
UNIQUE = 0.9  # share of different values above which a column of shorter texts is an identifier
WIDTH = 16  # numbers that stand for the trigrams of a text
BUCKETS = 1 << 16  # of words that training knew; a word counts as known when its bucket is
KNOWN = 2  # training rows that must hold a word: its own row must not make a word known
BLOCK = 1 << 14  # texts encoded at a time
SAMPLE = 1000  # texts whose words are counted


def split(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """The different texts of a column, and which of them each row holds: int `(n,)`, -1 where missing."""
    codes, values = pd.factorize(column)
    return codes, [str(value) for value in values]


def role(levels: list[str], rows: int) -> Literal["category", "free text", "identifier"]:
    """What a text column with these different values in `rows` rows is. Free text: more than half of the rows differ
    and the texts have three words or more. Identifier: more than MOST_TEXTS shorter texts, nearly all different."""
    different = len(levels) / max(rows, 1)
    if different > DIFFERENT and median_words(levels) >= WORDS:
        return "free text"
    if len(levels) <= MOST_TEXTS:
        return "category"
    return "identifier" if different > UNIQUE else "free text"


def median_words(levels: list[str]) -> float:
    """Words of the text in the middle; of many texts, every so many-th in the order of the alphabet counts."""
    some = sorted(levels)[:: max(1, len(levels) // SAMPLE)]
    return float(np.median([len(text.split()) for text in some]))


def learn(codes: np.ndarray, levels: list[str]) -> dict[str, Any]:
    """Known words (a bit each, in hexadecimal), mean and deviation of the share of unknown ones and of the logarithm of
    the length, and the text nearest to the middle of all (the first in the order of the alphabet)."""
    rows = np.bincount(codes[codes >= 0], minlength=len(levels))
    seen = np.zeros(BUCKETS)
    for start, words in _words(levels):
        seen += words.T @ rows[start : start + words.shape[0]]
    learned: dict[str, Any] = {"words": np.packbits(seen >= KNOWN).tobytes().hex()}
    for name, values in (("new", _new(levels, learned)), ("length", _length(levels))):
        learned[name] = list(moments(np.repeat(values, rows)))
    encoded = _encoded(levels, learned)
    away = ((encoded - rows @ encoded / rows.sum()) ** 2).sum(axis=1)
    learned["typical"] = min(text for text, far in zip(levels, away, strict=True) if far == away.min())
    return learned


def names(learned: dict[str, Any]) -> list[str]:
    """The encoded columns of one column of free text."""
    trigrams = [f"trigrams {i:02d}" for i in range(WIDTH)]
    return [f"{learned['name']}:{feature}" for feature in (*trigrams, "new words", "length")]


def encode(codes: np.ndarray, levels: list[str], learned: dict[str, Any]) -> np.ndarray:
    """float64 `(n, WIDTH + 2)`: trigrams, of length 1 together, so that two texts are as far apart as two categories
    can be; standardised share of new words; standardised length. All zeros for a missing text."""
    return np.concatenate([_encoded(levels, learned), np.zeros((1, WIDTH + 2))])[codes]


def _encoded(levels: list[str], learned: dict[str, Any]) -> np.ndarray:
    """float64 `(different texts, WIDTH + 2)`."""
    from sklearn.feature_extraction.text import HashingVectorizer

    trigrams = HashingVectorizer(n_features=WIDTH, analyzer="char_wb", ngram_range=(3, 3))
    encoded = np.zeros((len(levels), WIDTH + 2))
    for start in range(0, len(levels), BLOCK):
        some = levels[start : start + BLOCK]
        encoded[start : start + len(some), :WIDTH] = trigrams.transform(some).toarray()
    for place, (name, values) in enumerate((("new", _new(levels, learned)), ("length", _length(levels))), WIDTH):
        mean, deviation = learned[name]
        encoded[:, place] = (values - mean) / deviation
    return encoded


def _new(levels: list[str], learned: dict[str, Any]) -> np.ndarray:
    """The share of each text's different words that training did not know, 0 for a text without words."""
    known = np.unpackbits(np.frombuffer(bytes.fromhex(learned["words"]), np.uint8))
    found = np.zeros(len(levels))
    for start, words in _words(levels):
        count = words.sum(axis=1)
        found[start : start + len(count)] = (words @ (1.0 - known)) / np.maximum(np.asarray(count).ravel(), 1)
    return found


def _length(levels: list[str]) -> np.ndarray:
    return np.log1p([float(len(text)) for text in levels])


def _words(levels: list[str]) -> Iterator[tuple[int, Any]]:
    """Which buckets of words each text has, sparse `(BLOCK, BUCKETS)` of ones, with the first text's place."""
    from sklearn.feature_extraction.text import HashingVectorizer

    words = HashingVectorizer(n_features=BUCKETS, binary=True, norm=None, alternate_sign=False)
    for start in range(0, len(levels), BLOCK):
        yield start, words.transform(levels[start : start + BLOCK])
