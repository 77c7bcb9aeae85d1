"""The experiment of Chawla, Bowyer, Hall, Kegelmeyer: SMOTE. JAIR 16, 2002, sections 4 and 5, on tables at hand.

    python -m benchmarks.smote --data ../shared/data/tabular --out docs/results/smote.jsonl > docs/results/smote.md

A curve in ROC space is a learner trained again and again, on training rows with fewer and fewer normals (`LEVELS`):
as they are, or after SMOTE has added anomalies (`SMOTED`). Beside these stand naive Bayes with heavier and heavier
anomalies (`PRIORS`) and one tree whose leaves alarm earlier and earlier (`THRESHOLDS`, section 5.4). A point is the
mean false- and true-positive rate over ten folds, of which only those trained on are resampled.
"""

import argparse
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import header
from pipeline.parts.progress import tracked

SETS = {"mammography": ("23_mammography.npz", 5), "pima": ("29_Pima.npz", 5), "satellite": ("30_satellite.npz", 2)}
SMOTED = (50, 100, 200, 300, 400, 500)  # new anomalies per 100 old ones
LEVELS = (10, 15, 25, 50, 75, 100, 125, 150, 175, 200, 300, 400, 500, 600, 700, 800)  # old anomalies per 100 normals
PRIORS = (1, 2, 3, 5, 10, 20, 30, 40, 50)  # of an anomaly, times that of a normal
THRESHOLDS = (0.5, 0.45, 0.42, 0.4, 0.35, 0.32, 0.3, 0.27, 0.25, 0.22, 0.2, 0.17, 0.15, 0.12, 0.1, 0.05, 0.0)
FOLDS, NEIGHBOURS = 10, 5
CONFIDENCE = 0.25  # of C4.5's pruning, its default
UNDER, BAYES, LEAVES = "under", "naive Bayes", "thresholds"
SMOTES = tuple(f"SMOTE {percent}" for percent in SMOTED)
OTHERS = (UNDER, BAYES, LEAVES)
FAMILIES = (UNDER, *SMOTES, BAYES, LEAVES)
LIBRARIES = ("scikit-learn", "imbalanced-learn")
PAPER = {  # table 3, AUC with C4.5
    "mammography": dict(zip((UNDER, *SMOTES[1:]), (0.9260, 0.9250, 0.9265, 0.9311, 0.9330, 0.9304), strict=True)),
    "pima": {UNDER: 0.7242, SMOTES[1]: 0.7307},
}
PAGE = """# SMOTE and under-sampling, as in their paper

Made by `python -m benchmarks.smote --data ../shared/data/tabular --out docs/results/smote.jsonl`; {made}.

Chawla, Bowyer, Hall and Kegelmeyer (JAIR 16, 2002) claim for C4.5 that (a) SMOTE together with under-sampling of the
normals has a larger AUC than under-sampling alone, and (b) of the classifiers on the convex hull of all ROC curves
those by SMOTE are the most. What these sets say:

{verdicts}

A claim holds when it does in every repeat of the {folds}-fold cross-validation. Repeats share their rows: they tell how
much folds and draws matter, not what another sample would say. And the best of {levels} curves is compared with one,
here as in the paper; the mean of all is free of that choice.

## AUC

Trapezoids from (0, 0) over the classifier from the raw data and the points of the curve to (1, 1); mean over the
repeats. In brackets: table 3 of the paper, which differs in more than the learner (see below).

{auc}

## Gain over under-sampling alone

Mean difference of AUC on the same folds and the same normals (least, greatest of the repeats). `own start`: where a
curve goes from (0, 0) straight to its own first point, which SMOTE shifts to the right; the paper begins with raw data.

{gains}

## Convex hull

Corners of the hull of under-sampling, naive Bayes, leaf thresholds and that SMOTE curve which has the largest AUC, the
one that the paper draws. Points are means over the repeats; (0, 0) and (1, 1) do not count. `area` is that under the
hull, `without` that of the hull without SMOTE (the paper's appendix A), `all` that with all {levels} SMOTE curves.

{hulls}

## What differs from the paper

- Sets: three of nine, as ADBench keeps them. mammography and pima have the paper's numbers of rows; mammography's
  columns are standardised. satellite is not the paper's Satimage, whose minority were the 626 rows of the smallest
  class: ADBench calls three of the six classes anomalous, so there is little to balance.
- Tree: scikit-learn's, not C4.5 release 8. It splits by information gain, not gain ratio, and without C4.5's penalty
  for the many places where a number can be cut. Like C4.5 it keeps 2 rows a leaf and is pruned by pessimistic errors at
  {confidence:.0%}, but only into leaves: no subtree is raised. Ripper is left out.
- Naive Bayes: a Gaussian for each column; the paper does not say how it took numbers.
- SMOTE: imbalanced-learn's draws the anomaly that it starts from, the paper takes all of them equally often. As there,
  {neighbours} neighbours, in the units of the columns. The paper has less SMOTE on less skewed sets, 100 % on pima.
- Under-sampling: the levels are those of the paper's table for its oil set; it lists none for these. Folds are
  stratified. The paper does not say whether its areas begin at (0, 0).
"""


def kept(x: np.ndarray, y: np.ndarray, wanted: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with only `wanted` of the normals, drawn at random; all of them if there are no more."""
    from imblearn.under_sampling import RandomUnderSampler

    wanted = min(wanted, int((y == 0).sum()))
    return RandomUnderSampler(sampling_strategy={0: wanted}, random_state=seed).fit_resample(x, y)


def smoted(x: np.ndarray, y: np.ndarray, percent: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with `percent` new anomalies for 100 old ones behind them."""
    from imblearn.over_sampling import SMOTE

    wanted = {1: int(y.sum()) * (100 + percent) // 100}
    return SMOTE(sampling_strategy=wanted, k_neighbors=NEIGHBOURS, random_state=seed).fit_resample(x, y)


def pessimistic(errors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How many of `rows` are wrong at worst where `errors` are in training: C4.5's N * U_25%(E, N)."""
    from scipy.stats import beta

    return rows * beta.ppf(1 - CONFIDENCE, errors + 1, rows - errors)


def shares(x: np.ndarray, y: np.ndarray, tested: np.ndarray, seed: int) -> np.ndarray:
    """The share of anomalies among the training rows in the leaf of each row `tested` of a tree like C4.5's: (n,)."""
    from sklearn.tree import DecisionTreeClassifier

    learner = DecisionTreeClassifier(criterion="entropy", min_samples_leaf=2, random_state=seed).fit(x, y)
    tree, places = learner.tree_, np.flatnonzero(learner.classes_ == 1)
    share = tree.value[:, 0, places].sum(axis=1)  # 0 where no anomaly was trained on
    wrong = pessimistic(np.rint(tree.n_node_samples * np.minimum(share, 1 - share)), tree.n_node_samples)
    leaf, below = tree.children_left < 0, wrong.copy()
    for node in range(tree.node_count - 1, -1, -1):  # children stand behind their parents
        if not leaf[node]:
            below[node] = below[tree.children_left[node]] + below[tree.children_right[node]]
            leaf[node] = wrong[node] <= below[node]
            below[node] = min(wrong[node], below[node])
    for node in np.flatnonzero(tree.children_left >= 0):
        if leaf[node]:
            for child in (tree.children_left[node], tree.children_right[node]):
                leaf[child], share[child] = True, share[node]
    return share[learner.apply(tested)]


def alarms(
    x: np.ndarray, y: np.ndarray, tested: np.ndarray, at: list[int], seed: int
) -> Iterator[tuple[str, list[Any], np.ndarray]]:
    """Each family's name, the settings of its points, and whether each row `tested` is an alarm: bool `(points, n)`."""
    from sklearn.naive_bayes import GaussianNB

    old = int(y.sum())
    natural = old / (len(y) - old)
    leaf = shares(x, y, tested, seed)
    yield LEAVES, list(THRESHOLDS), np.stack([leaf > threshold for threshold in THRESHOLDS])
    odds = [natural, *(prior for prior in PRIORS if prior > natural)]
    weighed = [GaussianNB(priors=[1 / (1 + odd), odd / (1 + odd)]).fit(x, y).predict(tested) for odd in odds]
    yield BAYES, [round(odd, 4) for odd in odds], np.stack(weighed) == 1
    for name, percent in zip((UNDER, *SMOTES), (0, *SMOTED), strict=True):
        more = smoted(x, y, percent, seed) if percent else (x, y)
        fewer = [more, *(kept(*more, round(100 * old / level), seed) for level in at)]
        yield name, ["all", *at], np.stack([shares(*rows, tested, seed) > 0.5 for rows in fewer])


def measure(name: str, x: np.ndarray, y: np.ndarray, repeats: int) -> Iterator[dict[str, Any]]:
    """One line per repeat and family: the settings, and rates as means over the folds."""
    from sklearn.model_selection import StratifiedKFold

    at = [level for level in LEVELS if 100 * y.sum() / level < (y == 0).sum()]  # what leaves normals out
    told = {"set": name, "rows": len(y), "anomalies": int(y.sum())}
    told |= {library: version(library) for library in LIBRARIES}
    for repeat in range(repeats):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(x, y)
        rates, settings = {}, {}
        bar = tracked(folds, FOLDS, f"{name} {repeat + 1}/{repeats}", "folds")
        for fold, (train, test) in enumerate(bar):
            odd = y[test] == 1
            for family, of, alarm in alarms(x[train], y[train], x[test], at, 1000 * repeat + fold):
                settings[family] = of
                rates.setdefault(family, []).append(np.stack([alarm[:, ~odd].mean(1), alarm[:, odd].mean(1)]))
        for family, found in rates.items():
            fp, tp = np.mean(found, axis=0).round(5).tolist()
            yield {**told, "repeat": repeat, "family": family, "at": settings[family], "fp": fp, "tp": tp}


def auc(curve: np.ndarray) -> float:
    """The area under points `(n, 2)` (false, true) and the two ends, by trapezoids."""
    fp, tp = np.concatenate([[(0, 0)], curve[np.lexsort((curve[:, 1], curve[:, 0]))], [(1, 1)]]).T
    return float(np.trapezoid(tp, fp))


def hull(cloud: np.ndarray) -> np.ndarray:
    """Which points of `cloud` (n, 2) are corners of the convex hull from (0, 0) to (1, 1), without these: int (h,)."""
    whole = np.concatenate([cloud, [(0, 0), (1, 1)]])
    on: list[int] = []
    for i in np.lexsort((-whole[:, 1], whole[:, 0])):
        if on and whole[i, 1] <= whole[on[-1], 1]:
            continue  # more false alarms and no more found
        while len(on) > 1:
            (fp, tp), (fp_new, tp_new) = whole[on[-1]] - whole[on[-2]], whole[i] - whole[on[-2]]
            if fp * tp_new < tp * fp_new:
                break
            on.pop()  # lies on or below the line from the one before to the new one
        on.append(int(i))
    return np.array([i for i in on if whole[i].max() > 0 and whole[i].min() < 1], int)


class Curves:
    """What was measured on one set: `rates` of each family, false and true, (repeats, points, 2)."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        families: dict[str, list[np.ndarray]] = {}
        for line in lines:
            families.setdefault(line["family"], []).append(np.column_stack([line["fp"], line["tp"]]))
        self.name, self.rows, self.anomalies = lines[0]["set"], lines[0]["rows"], lines[0]["anomalies"]
        self.rates = {family: np.stack(found) for family, found in families.items()}
        raw = self.rates[UNDER][:, :1]  # every tree's curve begins at the one from the raw data
        self.own = {family: np.array([auc(curve) for curve in curves]) for family, curves in self.rates.items()}
        begun = {family: np.concatenate([raw, self.rates[family]], axis=1) for family in SMOTES}
        self.auc = self.own | {family: np.array([auc(curve) for curve in curves]) for family, curves in begun.items()}
        self.gain = {family: self.auc[family] - self.auc[UNDER] for family in SMOTES}
        self.best = max(SMOTES, key=lambda family: self.gain[family].mean())

    def on_hull(self, families: list[str], repeat: int | None = None) -> tuple[dict[str, int], float]:
        """How many corners of the hull each family has, and the area under it; in one repeat or in their mean."""
        curves = {f: self.rates[f].mean(0) if repeat is None else self.rates[f][repeat] for f in families}
        cloud = np.concatenate(list(curves.values()))
        corners = hull(cloud)
        owners = np.repeat(families, [len(curve) for curve in curves.values()])[corners]
        return {family: int((owners == family).sum()) for family in families}, auc(cloud[corners])

    def most(self, repeat: int | None = None) -> bool:
        """Whether the best SMOTE curve has more corners of the hull than each other family."""
        counts, _ = self.on_hull([*OTHERS, self.best], repeat)
        return counts[self.best] > max(counts[other] for other in OTHERS)

    def verdict(self) -> str:
        gain, levels = self.gain[self.best], [found.mean() for found in self.gain.values()]
        both = gain > 0, np.array([self.most(repeat) for repeat in range(len(gain))])
        a, b = (f"{'holds' if t.all() else 'does not hold'} ({t.sum()} of {len(t)} repeats)" for t in both)
        counts, _ = self.on_hull([*OTHERS, self.best])
        own, whole = counts[self.best], max(1, sum(counts.values()))
        alone = np.mean([self.own[family] - self.own[UNDER] for family in SMOTES])
        return (
            f"- **{self.name}** ({self.rows - self.anomalies:,} normals, {self.anomalies:,} anomalies): (a) {a}. "
            f"{self.best} % has an AUC of {self.auc[self.best].mean():.4f}, {gain.mean():+.4f} against under-sampling "
            f"alone; {sum(level > 0 for level in levels)} of {len(levels)} percentages are better, and the mean of all "
            f"gains is {np.mean(levels):+.4f} ({alone:+.4f} from their own start, see below). (b) {b}. SMOTE has {own} "
            f"of the {whole} classifiers on the hull of the means, {own / whole:.0%}."
        )


def table(*rows: list[str]) -> str:
    """Rows as a table in Markdown; the first one heads the others."""
    return "\n".join([*header(*rows[0]), *(f"| {' | '.join(row)} |" for row in rows[1:])])


def page(lines: list[dict[str, Any]]) -> str:
    """The page of results in Markdown."""
    verdicts, areas, gains, hulls = [], [], [], []
    for name in dict.fromkeys(line["set"] for line in lines):
        one = Curves([line for line in lines if line["set"] == name])
        verdicts.append(one.verdict())
        known = {family: f" ({area:.4f})" for family, area in PAPER.get(name, {}).items()}
        told = {family: f"{one.auc[family].mean():.4f}{known.get(family, '')}" for family in FAMILIES}
        areas.append([name, *told.values()])
        own = {family: one.own[family] - one.own[UNDER] for family in SMOTES}
        for called, some in ((name, one.gain), (f"{name}, own start", own)):
            gains.append([called, *(f"{g.mean():+.4f} ({g.min():+.4f}, {g.max():+.4f})" for g in some.values())])
        counts, area = one.on_hull([*OTHERS, one.best])
        beside = (one.on_hull(families)[1] for families in ([*OTHERS], [*OTHERS, *SMOTES]))
        owned = [*(str(counts[other]) for other in OTHERS), f"{counts[one.best]} ({one.best})"]
        hulls.append([name, *owned, *(f"{a:.4f}" for a in (area, *beside))])
    fixed = {"folds": FOLDS, "levels": len(SMOTED), "confidence": CONFIDENCE, "neighbours": NEIGHBOURS}
    return PAGE.format(
        made=", ".join(f"{library} {lines[0][library]}" for library in LIBRARIES),
        verdicts="\n".join(verdicts),
        auc=table(["set", *FAMILIES], *areas),
        gains=table(["set", *SMOTES], *gains),
        hulls=table(["set", *OTHERS, "SMOTE", "area", "without", "all"], *hulls),
        **fixed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    files = ", ".join(file for file, _ in SETS.values())
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path, help=f"folder with some of {files}: arrays X, y")
    given.add_argument("--page", type=Path, help="what --out wrote, to make the page again")
    parser.add_argument("--out", type=Path, help="JSONL file for the results, written anew")
    parser.add_argument("--repeats", type=int, help="of the cross-validation, with other folds; 5, on satellite 2")
    chosen = parser.parse_args()
    if chosen.page:
        lines = [json.loads(line) for line in chosen.page.read_text(encoding="utf-8").splitlines()]
    else:
        lines = []
        for name, (file, repeats) in SETS.items():
            if (chosen.data / file).is_file():
                with np.load(chosen.data / file) as arrays:
                    x, y = arrays["X"].astype(np.float64), arrays["y"].astype(np.int8)
                lines += measure(name, x, y, chosen.repeats or repeats)
        if not lines:
            parser.error(f"--data must hold one of {files}, got {chosen.data}")
        if chosen.out:
            chosen.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(page(lines), end="")


if __name__ == "__main__":
    main()
