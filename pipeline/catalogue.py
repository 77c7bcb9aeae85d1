"""The tables of detectors in README.md and docs/detectors.md, made from the code and from docs/results/.

python -m pipeline.catalogue        # rewrites both
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pipeline import detectors
from pipeline.tables import find

ROOT = Path(__file__).resolve().parents[1]
README, PAGE, RESULTS = ROOT / "README.md", ROOT / "docs/detectors.md", ROOT / "docs/results"
BEGIN, END = "<!-- detectors: made by python -m pipeline.catalogue -->\n", "<!-- end of detectors -->\n"
SPEEDS = ("fast", "medium", "slow")
UNKNOWN = "not measured"
APART = {"regime", "ablation"}  # one model for all sets, few normals or none; a part switched off
BACKBONE = "mobilenetv2_100"  # that images are compared with
INTRO = """# Detectors

Made by `python -m pipeline.catalogue` from the code and from the results in `docs/results/`. No figure here is written
by hand. The options of each detector are in the [reference](reference/detectors.md).

*Labels*: **none** learns from normals and leaves labelled anomalies aside; **ignored** learns from all samples and
looks at no label; **optional** also learns from labelled anomalies where there are any; **needed** cannot learn without
some. *Speed* says how long training and scoring take, by the rule below each table.

"""
IMAGES = """\
Speed: milliseconds to train on one image and to score one, decoding included, the median over the sets that were
timed, on two CPU cores; below {bounds[0]} is fast, below {bounds[1]} medium.

### Images, measured

Image AUROC / AUPRO on the test part, 224 x 224 pixels, MobileNetV2 with ImageNet weights where there is a backbone.
Larger images score better: [all rows](results/images.md). Each row came from

```sh
python -m benchmarks.images --data ../shared/data --split ../shared/data/splits/SET.csv --detectors NAME \\
    --backbone mobilenetv2_100 --weights ../shared/weights/mobilenetv2_100.safetensors --size 224x224 --fit stretch
```

with `--labelled 0.1` where defects are given. DRAEM and EfficientAD train networks from scratch and get, by default, a
small part of their papers' steps.
"""
TABLES = """\
Speed: seconds to train on 70 % of the largest set's {largest:,} rows and to score the others, on two CPU cores;
below {bounds[0]} is fast, below {bounds[1]} medium.

### Tables, measured

Means over {sets} sets, by raw scores; [each set](results/tables.md). Each row came from

```sh
python -m benchmarks.tables --data ../shared/data/tabular --detectors NAME
```

with `--labels 0.01` or `--labels 0.1` where anomalies are labelled.
"""
OPTIONS = "Options beside the defaults: {}."
Row = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """How the results of one kind of data are read: which rows count for a `regime` (what was known of labels), their
    `cells` by column, and what training and scoring `cost` in `unit`, with the two bounds between the classes."""

    title: str
    file: str
    regimes: dict[str, Callable[[Row], bool]]
    columns: Callable[[Sequence[Row]], list[str]]
    cells: Callable[[Sequence[Row], Sequence[Row]], list[str]]
    cost: Callable[[Sequence[Row]], float | None]
    bounds: tuple[float, float]
    unit: str
    text: str

    def rows(self) -> list[Row]:
        """Our own rows of the results: not those of other projects, nor those that say something of APART."""
        text = (RESULTS / self.file).read_text(encoding="utf-8")
        return [row for row in map(json.loads, text.splitlines()) if row["by"] == "assay" and not APART & set(row)]

    def speed(self, rows: Sequence[Row]) -> str:
        """The class of a detector, with the figure that decides."""
        cost = self.cost(rows)
        if cost is None:
            return UNKNOWN
        figure = f"{cost:.0f}" if cost >= 10 else f"{cost:.2g}"
        return f"{SPEEDS[sum(cost >= bound for bound in self.bounds)]} ({figure}&nbsp;{self.unit})"


def _plain(rows: Sequence[Row]) -> dict[str, Row]:
    """Of each set the row with the fewest options beside the defaults; of equal ones the first that was timed."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (len(_options(row)), "images_per_s" not in row)):
        found.setdefault(row["set"], row)
    return found


def _options(row: Row) -> dict[str, Any]:
    given = row["params"] if "params" in row else row["options"]
    return {key: value for key, value in given.items() if key not in ("detector", "backbone")}


def _image_regime(labels: str | None) -> Callable[[Row], bool]:
    same = {"size": [224, 224], "fit": "stretch"}

    def counts(row: Row) -> bool:
        network = row["params"].get("backbone", {}).get("name", BACKBONE)
        alike = row["on"] == "test" and row["dataset"] == same and network == BACKBONE
        return alike and row.get("labels") == labels

    return counts


def _image_cells(rows: Sequence[Row], every: Sequence[Row]) -> list[str]:
    by_set = _plain(rows)
    figures = [
        [f"{row[key]:.3f}" for key in ("image_auroc", "aupro") if key in row]
        for row in (by_set.get(name, {}) for name in _sets(every))
    ]
    return [" / ".join(some) for some in figures]


def _image_cost(rows: Sequence[Row]) -> float | None:
    timed = [row for row in _plain(rows).values() if "fit_s" in row and "images_per_s" in row]
    return median(1000 * (row["fit_s"] / row["train"] + 1 / row["images_per_s"]) for row in timed) if timed else None


def _table_cells(rows: Sequence[Row], every: Sequence[Row]) -> list[str]:
    if {row["set"] for row in rows} != set(_sets(every)):
        return ["", ""]
    return [f"{fmean(fmean(row[key]) for row in rows):.3f}" for key in ("auroc", "ap")]


def _table_cost(rows: Sequence[Row]) -> float | None:
    return max(rows, key=lambda row: row["rows"])["seconds"] if rows else None


def _sets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["set"] for row in rows))


KINDS = {
    "image": Kind(
        title="Images",
        file="images.jsonl",
        regimes={
            "without labels": _image_regime(None),
            "a tenth of the defects given, with masks": _image_regime("10% of the defects given with masks"),
        },
        columns=_sets,
        cells=_image_cells,
        cost=_image_cost,
        bounds=(75, 300),
        unit="ms",
        text=IMAGES,
    ),
    "table": Kind(
        title="Tables",
        file="tables.jsonl",
        regimes={
            "without labels": lambda row: row["labels"] == 0,
            "1 % of the anomalies labelled": lambda row: row["labels"] == 0.01,
            "10 % of the anomalies labelled": lambda row: row["labels"] == 0.1,
        },
        columns=lambda rows: ["AUROC", "AP"],
        cells=_table_cells,
        cost=_table_cost,
        bounds=(0.1, 1),
        unit="s",
        text=TABLES,
    ),
}


def _of(key: str, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["detector"] == key.partition("/")[2]]


def _does(cls: Any) -> str:
    """The first sentence of a docstring."""
    return re.split(r"\.(?:\s|$)", " ".join(cls.__doc__.split()), maxsplit=1)[0]


def _labels(cls: Any, unlabelled: Sequence[Row]) -> str:
    """What a detector needs to know: one that learns from labels and was measured without any does not need them."""
    if cls.learns_from != "labels":
        return {"normals": "none", "samples": "ignored"}[cls.learns_from]
    return "optional" if unlabelled else "needed"


def _paper(paper: str) -> str:
    arxiv = re.fullmatch(r"https://arxiv\.org/abs/([\d.]+)", paper)
    return f"[arXiv:{arxiv[1]}]({paper})" if arxiv else paper


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def table() -> str:
    """The README's: each detector with what it needs, its speed and what it does."""
    rows = []
    for kind, read in KINDS.items():
        unlabelled = list(filter(next(iter(read.regimes.values())), read.rows()))
        for key in (key for key in detectors.TABLE if key.startswith(f"{kind}/")):
            cls: Any = find(detectors, key, "detector")
            own = _of(key, unlabelled)
            speed = read.speed(own or _of(key, read.rows())).split(" (")[0]
            rows.append([f"`{key}`", _labels(cls, own), speed, _does(cls)])
    return _markdown(["`detector`", "labels", "speed", "what it does"], rows)


def page() -> str:
    """docs/detectors.md."""
    return INTRO + "\n".join(_section(kind, read) for kind, read in KINDS.items())


def _section(kind: str, read: Kind) -> str:
    rows = read.rows()
    keys = [key for key in detectors.TABLE if key.startswith(f"{kind}/")]
    unlabelled = list(filter(next(iter(read.regimes.values())), rows))
    about = []
    for key in keys:
        cls: Any = find(detectors, key, "detector")
        own = _of(key, unlabelled)
        speed = read.speed(own or _of(key, rows))
        link = f"[`{key}`](reference/detectors.md#{key.replace('/', '-')})"
        about.append([link, _labels(cls, own), speed, _does(cls), _paper(cls.paper)])
    parts = [f"## {read.title}\n", _markdown(["detector", "labels", "speed", "what it does", "paper"], about)]
    largest = max(row.get("rows", 0) for row in rows)
    parts.append(read.text.format(bounds=read.bounds, largest=largest, sets=len(_sets(rows))))
    for regime, counts in read.regimes.items():
        chosen = list(filter(counts, rows))
        measured = [(key, _of(key, chosen)) for key in keys if _of(key, chosen)]
        cells = [[f"`{key}`", *read.cells(own, chosen)] for key, own in measured]
        parts += [f"**{regime[0].upper()}{regime[1:]}**\n", _markdown(["detector", *read.columns(chosen)], cells)]
        more = {key: _options(row) for key, own in measured for row in _plain(own).values() if _options(row)}
        if more:
            parts.append(OPTIONS.format("; ".join(f"`{key}` {_told(options)}" for key, options in more.items())) + "\n")
    return "\n".join(parts)


def _told(options: Row) -> str:
    return ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in options.items())


def renewed(text: str) -> str:
    """`text` with the table between its two marks made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}{table()}{END}{tail}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
