"""The tables of the page of image results: lines of `benchmarks.images` as Markdown."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import yaml

from benchmarks.images import KNOWN
from benchmarks.methods import Method

QUALITY = ("image_auroc", "ap", "pixel_auroc", "aupro")
COST = ("fit_s", "images_per_s", "bare_per_s", "bound_per_s", "before_mb", "peak_mb")
GPU = ("epoch_s", "memory_per_s")  # shown where lines have them
OURS, PEER = "assay", "anomalib"
NONE = "(not measured yet)"
PAGES = "mobilenetv2_100"  # the backbone of the page's command
FAR = 0.01  # image AUROC between two runs of the same
FITTED = ("patchcore", "padim", "gaussian", "musc")  # learn without gradients
Line = dict[str, Any]
Lines = Sequence[Line]


def header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without its empty columns, or the word that there is nothing to show."""
    some = [at for at in range(len(names)) if any(row[at] for row in rows)]
    if not some:
        return NONE
    cells = [[row[at] for at in some] for row in rows]
    return "\n".join([*header(*(names[at] for at in some)), *(f"| {' | '.join(row)} |" for row in cells)])


def table(lines: Lines, keys: tuple[str, ...] = (*QUALITY, *COST)) -> str:
    """The results, a row each; of peers that could not run nothing but that."""
    keys = (*keys, *(key for key in GPU if any(key in line for line in lines)))
    rows = []
    for line in lines:
        cells = [f"{line[key]:.{3 if key in QUALITY else 1}f}" if key in line else "" for key in keys]
        rows.append([line["set"], line["detector"], line["by"], size(line), settings(line), *cells])
    return "\n".join(
        [*header("set", "detector", "by", "size", "settings", *keys), *(f"| {' | '.join(r)} |" for r in rows)]
    )


def size(line: Line) -> str:
    return " x ".join(map(str, line["dataset"]["size"])) + f" {line['dataset'].get('fit', 'letterbox')}"


def backbone(line: Line) -> str:
    return line["params"].get("backbone", {}).get("name", "none")


def settings(line: Line) -> str:
    """What differs from the defaults, what training was given, and what is switched off."""
    same = {"learn": line.get("learned_on"), "shots": line.get("shots")}  # options that say what the regime says
    options = {key: value for key, value in line["params"].items() if key not in same or value != same[key]}
    told = [_told(key, value) for key, value in options.items() if key not in ("detector", "backbone")]
    own = line["params"].get("backbone", {})
    if own.get("levels") != KNOWN.get(own.get("name"), {}).get("levels"):
        told.append(f"levels {own.get('levels')}")
    told += [] if own.get("name", "filterbank") in (*KNOWN, "filterbank") else [own["name"]]
    told += [line["labels"]] if "labels" in line else []
    return ", ".join([*told, *([regime(line)] if "regime" in line else [])])


def _told(key: str, value: Any) -> str:
    """An option, or a wrapper with its own."""
    if not isinstance(value, dict):
        return f"{key} {value}"
    return f"{key} ({', '.join(f'{k} {v}' for k, v in value.items() if k != 'backbone')})"


def regime(line: Line) -> str:
    """The regime of a line in words."""
    told = ["one model for all sets"] if line.get("regime") == "all-class" else []
    told += ["learned on the other sets"] if "learned_on" in line else []
    told += ["the whole test part as one batch"] if line.get("whole") else []
    if line.get("shots"):
        draws = f", mean of {line['draws']} draws" if line["draws"] > 1 else ""
        told.append(f"{line['shots']} normal image{'s' * (line['shots'] > 1)}{draws}")
    return ", ".join(told)


def usual(line: Line) -> bool:
    """Whether a line is of one model per set at the size that all detectors are compared at, without labels."""
    same = {"size": [224, 224], "fit": "stretch"}
    return line["dataset"] == same and not {"regime", "ablation", "labels"} & set(line)


def once(lines: Lines) -> list[Line]:
    """Of lines that measured the same, one: with its speed where one has that, the last of equal ones."""
    found: dict[tuple[str, ...], Line] = {}
    for line in lines:
        key = (line["set"], line["detector"], line["by"], line["on"], size(line), settings(line), backbone(line))
        key = (*key, line.get("ablation", ""))
        if key not in found or "images_per_s" in line or "images_per_s" not in found[key]:
            found[key] = line
    return list(found.values())


def plainest(lines: Lines) -> dict[str, Line]:
    """Of each set the line with the fewest options beside the defaults, the first of equal ones."""
    found: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: len(line["params"])):
        found.setdefault(line["set"], line)
    return found


def names(lines: Lines) -> list[str]:
    """The sets, without those that stand for several."""
    return [name for name in dict.fromkeys(line["set"] for line in lines) if "+" not in name]


def figure(line: Line | None, keys: Sequence[str] = ("image_auroc", "aupro")) -> str:
    if line is None:
        return ""
    spread = f" ± {line['spread']:.3f}" if "spread" in line else ""
    cells = [f"{line[key]:.3f}{spread if key == 'image_auroc' else ''}" for key in keys if key in line]
    return " / ".join(cells)


def difference(own: Line, other: Line, keys: Sequence[str] = ("image_auroc", "aupro")) -> str:
    return " / ".join(f"{own[key] - other[key]:+.3f}" for key in keys if key in own and key in other)


def papers(lines: Lines, methods: dict[str, Method], machines: dict[str, str]) -> str:
    """A row per detector and backbone: the paper's figure, ours and anomalib's on every set, and the command."""
    sets, rows = names(lines), []
    measured = [line for line in lines if "ablation" not in line and not line.get("failed")]
    for name, network in dict.fromkeys((line["detector"], backbone(line)) for line in measured if line["by"] == OURS):
        own = [line for line in measured if (line["detector"], backbone(line)) == (name, network)]
        ours, note = _chosen([line for line in own if line["by"] == OURS])
        theirs = plainest([line for line in own if line["by"] == PEER and usual(line)])
        if not ours:
            continue
        method = methods.get(name, Method())
        each = ["<br>".join(figure(of.get(one), ["image_auroc"]) or "-" for one in sets) for of in (ours, theirs)]
        where = ", ".join([network, *sorted({machines[machine(line)] for line in (*ours.values(), *theirs.values())})])
        flags = command(next(iter(ours.values()))) + " --peer anomalib" * bool(theirs)
        last = "<br>".join([*filter(None, [method.difference]), f"`{flags}`"])
        first = "<br>".join([f"**{name}**", where, *filter(None, [note])])
        rows.append([first, method.published, each[0], each[1] if theirs else "", last])
    return markdown(["detector", "the paper's figure", "ours", "anomalib's", "difference, command"], rows)


def command(line: Line) -> str:
    """The arguments of a line that are not those of all."""
    name, own = line["detector"], line["params"].get("backbone", {})
    options = {key: value for key, value in line["params"].items() if key not in ("detector", "backbone", "bank")}
    if own.get("levels") != KNOWN.get(own.get("name"), {}).get("levels"):
        options["backbone"] = {"levels": own.get("levels")}
    told = yaml.safe_dump({name: options}, default_flow_style=True, width=math.inf).strip() if options else ""
    found = [f"--detectors {name}", *([f"--options '{told}'"] if told else [])]
    if own.get("name", PAGES) != PAGES:
        weights = own.get("weights", "none")
        found += [
            f"--backbone {own['name']}",
            *([f"--weights ../shared/weights/{weights}"] if weights != "none" else []),
        ]
    found += [f"--labelled {float(line['labels'].split('%')[0]) / 100:g}"] if "labels" in line else []
    found += [flag for flag, key in (("--whole", "whole"), ("--unseen", "learned_on")) if key in line]
    return " ".join([*found, *([f"--shots {line['shots']} --draws {line['draws']}"] if "shots" in line else [])])


def _chosen(own: Lines) -> tuple[dict[str, Line], str]:
    """The lines that stand for a detector, with what they need to be told of."""
    for counts, note in (
        (usual, ""),
        (lambda line: "labels" in line and "regime" not in line and line["dataset"]["fit"] == "stretch", "labels"),
        (lambda line: line.get("regime") == "zero-shot", "regime"),
        (lambda line: line.get("regime") == "few-shot", "regime"),
    ):
        found = plainest([line for line in own if counts(line)])
        if found:
            first = next(iter(found.values()))
            return found, (first["labels"] if note == "labels" else regime(first)) if note else ""
    return {}, ""


def machine(line: Line) -> str:
    return f"{line['machine']}, torch {line['torch']}"


def all_class(lines: Lines) -> str:
    """One model for all sets: means over these, beside the mean of one model per set."""
    some = [line for line in lines if line.get("regime") == "all-class" and _whole(line) and not line.get("shots")]
    sets = list(dict.fromkeys(name for line in some for name in line["categories"]))
    rows = []
    for line in some:
        one = plainest([o for o in lines if usual(o) and _same(o) == _same(line) and not o.get("failed")])
        apart = f"{fmean(one[name]['image_auroc'] for name in sets):.3f}" if set(sets) <= set(one) else ""
        each = [figure(line["categories"].get(name)) for name in sets]
        rows.append([line["detector"], line["by"], _options(line), figure(line), apart, *each])
    return markdown(["detector", "by", "settings", "mean", "apart", *sets], rows)


def _same(line: Line) -> tuple[str, str, str]:
    return line["detector"], line["by"], backbone(line)


def _whole(line: Line) -> bool:
    """Whether nothing is switched off and there is a figure."""
    return "ablation" not in line and "failed" not in line


def _options(line: Line) -> str:
    """The settings without the regime, which the table tells."""
    return settings({key: value for key, value in line.items() if key != "regime"})


def few(lines: Lines, kind: str) -> str:
    """The `few-shot` or `zero-shot` lines: a row per detector and way, a column per set."""
    some = [line for line in lines if line.get("regime") == kind and _whole(line)]
    sets, rows = names(some), []

    def way(line: Line) -> tuple[str, ...]:
        return line["detector"], line["by"], regime(line), _options(line)

    for key in dict.fromkeys(way(line) for line in some):
        own = {line["set"]: line for line in some if way(line) == key}
        rows.append([*key, *(figure(own.get(name)) for name in sets)])
    return markdown(["detector", "by", "trained on", "settings", *sets], rows)


def ablations(lines: Lines) -> str:
    """What each idea is worth: the whole method, and how much lower or higher it gets with a part changed. Takes all
    lines, since both are to be of as many threads."""
    some = [line for line in lines if "ablation" in line and "failed" not in line]
    sets, rows = list(dict.fromkeys(line["set"] for line in some)), []

    def kind(line: Line) -> tuple[str, str, str]:
        return line["detector"], backbone(line), regime(line)

    for key in dict.fromkeys(kind(line) for line in some):
        pairs = [(line, whole_of(line, lines)) for line in some if kind(line) == key]
        whole = {line["set"]: full for line, full in pairs if full is not None}
        rows.append([key[0], "nothing", key[2], *(figure(whole.get(name)) for name in sets)])
        for words in dict.fromkeys(line["ablation"] for line, _ in pairs):
            own = {line["set"]: difference(line, full) for line, full in pairs if full and line["ablation"] == words}
            rows.append(["", words, "", *(own.get(name, "") for name in sets)])
    return markdown(["detector", "changed", "regime", *sets], rows)


def whole_of(off: Line, lines: Lines) -> Line | None:
    """The line of the whole method of which `off` changes a part: the last one with all else alike."""
    keys = ("detector", "by", "set", "on", "dataset", "labels", "regime", "shots", "whole", "learned_on", "machine")
    keys = (*keys, "threads")

    def rest(line: Line) -> Line:
        return {key: value for key, value in line["params"].items() if key not in off["off"]}

    alike = [
        line
        for line in lines
        if _whole(line) and all(line.get(key) == off.get(key) for key in keys) and rest(line) == rest(off)
    ]
    return alike[-1] if alike else None


def unrest(lines: Lines) -> str:
    """How far two runs of the same thing lie apart that differ in the number of threads alone, as a sentence. Runs of
    two revisions, where both are told, are not of the same thing."""
    runs: dict[str, dict[tuple[int, str | None], Line]] = {}
    for line in lines:
        if usual(line) and line["by"] == OURS and line["detector"] not in FITTED and "failed" not in line:
            runs.setdefault(f"{line['detector']} on {line['set']}, {settings(line)}", {})[
                line["threads"], line.get("revision")
            ] = line

    def alike(one: Line, other: Line) -> bool:
        return one["threads"] != other["threads"] and len({one.get("revision"), other.get("revision")} - {None}) < 2

    apart: dict[str, float] = {}
    for name, own in runs.items():
        pairs = [pair for pair in combinations(own.values(), 2) if alike(*pair)]
        if pairs:
            apart[name] = max(abs(one["image_auroc"] - other["image_auroc"]) for one, other in pairs)
    if not apart:
        return ""
    far = ", ".join(f"{name.rstrip(', ')} ({by:.3f})" for name, by in apart.items() if by >= FAR) or "none"
    return (
        f"The same seed with one thread and with two, which add up in another order, was measured {len(apart)} times; "
        f"image AUROC lay {FAR} or more apart for {far}. There a difference no larger than that says nothing."
    )


def bare(lines: Lines) -> str:
    """How far the speeds of the same bare network lie apart, of the one of which they do so most, as a sentence."""
    runs: dict[tuple[Any, ...], list[float]] = {}
    for line in lines:
        if "bare_per_s" in line:
            own = line["params"]["backbone"]
            key = (own["name"], size(line), str(own), line["threads"], machine(line))
            runs.setdefault(key, []).append(line["bare_per_s"])
    several = {key: found for key, found in runs.items() if len(found) > 1}
    if not several:
        return ""
    key = max(several, key=lambda key: max(several[key]) / min(several[key]))
    low, high = min(several[key]), max(several[key])
    return (
        f"\n`bare_per_s` of the same network, {key[0]} at {key[1]}, was {low:.0f} to {high:.0f}, as the machine "
        "varied:\ncompare `images_per_s` only with `bare_per_s` of the same row."
    )


def beside(lines: Lines) -> str:
    """Each line of ours that has one of anomalib's with the same set, size and settings, against that."""

    def same(line: Line) -> tuple[str, ...]:
        return line["set"], line["detector"], size(line), settings(line), backbone(line)

    peers = {same(line): line for line in lines if line["by"] == PEER and "failed" not in line}
    rows = []
    for own in lines:
        peer = peers.get(same(own))
        if own["by"] == PEER or peer is None or "ablation" in own:
            continue
        times = [_times(own, peer, cost) for cost in (train_ms, score_ms)]
        known = "before_mb" in own and "before_mb" in peer
        memory = [f"{own['peak_mb'] / peer['peak_mb']:.0%}", f"{beyond(own) / beyond(peer):.0%}" if known else ""]
        apart = [difference(own, peer, [key]) for key in ("image_auroc", "aupro")]
        rows.append([own["set"], own["detector"], settings(own), *apart, *times, *memory])
    columns = ["image_auroc", "aupro", "training, ms", "scoring, ms", "memory", "beyond before_mb"]
    return markdown(["set", "detector", "settings", *columns], rows)


def failures(lines: Lines) -> str:
    """What anomalib could not do here, a sentence each."""
    told = {f"- {line['detector']}, {backbone(line)}: {line['failed']}": None for line in lines if "failed" in line}
    return "\n".join(told)


def _times(own: Line, peer: Line, cost: Callable[[Line], float | None]) -> str:
    ours, theirs = cost(own), cost(peer)
    return "" if ours is None or theirs is None else f"{ours:.1f} / {theirs:.1f} ({theirs / ours:.1f} times)"


def train_ms(line: Line) -> float | None:
    """Milliseconds of training by training image."""
    return 1000 * line["fit_s"] / line["train"] if "images_per_s" in line else None


def score_ms(line: Line) -> float | None:
    return 1000 / line["images_per_s"] if "images_per_s" in line else None


def beyond(line: Line) -> float:
    return line["peak_mb"] - line["before_mb"]


def classes(lines: Lines) -> str:
    """Image AUROC of each class of defect, of our lines on sets with several."""
    rows = []
    for line in lines:
        found = ", ".join(f"{k.removeprefix('auroc.')} {v:.3f}" for k, v in line.items() if k.startswith("auroc."))
        if line["by"] == OURS and found.count(",") and _whole(line):
            told = ", ".join(part for part in (line["set"], line["detector"], size(line), settings(line)) if part)
            rows.append(f"- {told}: {found}")
    return "\n".join(rows) or "(one each)"
