"""The pages of docs/reference/ about params.yaml and the commands, made from the dataclasses and the sources.

python -m pipeline.reference        # rewrites params.md, detectors.md and commands.md
"""

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from annotated_types import Ge, Gt, Le, Lt

from pipeline import augmenters, detectors, modalities, params, plan, rules, sinks, wrappers
from pipeline.operation import Monitor, Promote, Schedule, Score
from pipeline.tables import find

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/reference"
MADE = "Made by `python -m pipeline.reference`.\n"
PARAMS = f"""# Parameters

{MADE}
`params.yaml` in a line's folder is the whole interface of a run. Every key is checked: an unknown key, a wrong type or
a value out of range ends the run with one sentence that names it. Addresses and secrets come from the environment,
never from here. `root` is the way from the line's folder to the checkout.
"""
DETECTORS = f"""# Detectors and their options

{MADE}
Each is a candidate in `params.yaml`: `candidates: {{NAME: {{detector: KEY, OPTION: VALUE}}}}`. What they are worth
is among the [detectors, measured](../detectors.md); what may stand around one is in the
[parameters](params.md#candidates).
"""
CALIBRATE = """## `calibrate`

Which rule sets the alarm threshold, which one the review band below it. The options of the rule stand beside it.

| key | allowed | default | what |
|---|---|---|---|
| `rule` | one of those below | `false_alarm_rate` | How the alarm threshold is found. |
| `review` | number in (0, 1), or a `rule` with its options, or `null` | `null` | A larger rate, or another rule. |
| `by` | {by}, or `null` | `null` | Column whose values get thresholds of their own. |
"""
COMMANDS = f"""# Commands

{MADE}
"""


@dataclass(frozen=True)
class Key:
    """One key of a section: its place, what is allowed, the default as YAML, and what it means."""

    name: str
    allowed: str
    default: str
    says: str


def keys(cls: type, before: str = "") -> Iterator[Key]:
    """The keys that a dataclass configures, those of dataclasses of its own file included, as `outer.inner`."""
    hints = get_type_hints(cls, include_extras=True)
    said = sentences(cls)
    for field in fields(cls):
        if not field.init:
            continue
        inside = _inside(hints[field.name])
        kinds = " or ".join(_link(one) for one in inside if _shared(one, cls)) or allowed(hints[field.name])
        yield Key(f"{before}{field.name}", kinds, _default(field), said[field.name])
        for inner in (one for one in inside if not _shared(one, cls)):
            more = "NAME." if get_origin(hints[field.name]) is dict else ""
            yield from keys(inner, f"{before}{field.name}.{more}")


def sentences(cls: type) -> dict[str, str]:
    """What each field means: the text behind it, else the comment before it; empty where there is neither."""
    lines = inspect.getsource(cls).splitlines()
    body = ast.parse(inspect.cleandoc("\n".join(lines))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        name = node.target.id
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = after.value.value
        else:
            above = []
            for line in reversed(lines[: node.lineno - 1]):
                if not line.strip().startswith("#"):
                    break
                above.insert(0, line.strip().lstrip("# "))
            text = " ".join(above)
        found[name] = " ".join(text.split())
    return found


def _inside(hint: Any) -> list[type]:
    """The dataclasses in a hint."""
    return [part for part in _parts(hint) if isinstance(part, type) and is_dataclass(part)]


def _shared(inner: type, outer: type) -> bool:
    """Whether `inner` has a table of its own, since several sections have such a key."""
    return inner.__module__ != outer.__module__


def _link(shared: type) -> str:
    return f"[keys](detectors.md#{shared.__name__.lower()})"


def _parts(hint: Any) -> Iterator[Any]:
    """A hint and everything inside it."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def allowed(hint: Any, bounds: Sequence[Any] = ()) -> str:
    """A type with its bounds, in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return allowed(inside[0], [*bounds, *inside[1:]])
    if origin in (Union, UnionType):
        words = [allowed(part, bounds) for part in inside if part is not NoneType]
        return ", or ".join([" or ".join(words), *(["`null`"] if NoneType in inside else [])])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin is list:
        return f"list, each: {allowed(inside[0])}"
    if origin is tuple:
        each = [allowed(part) for part in inside]
        return f"{len(each)} values, each: {each[0]}" if len(set(each)) == 1 else ", ".join(each)
    if origin is dict:
        return f"`NAME:` {allowed(inside[1])}"
    if is_dataclass(hint):
        return "keys below"
    plain = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Any: "anything"}
    return " ".join(filter(None, [plain[hint], _range(bounds)]))


def _range(bounds: Sequence[Any]) -> str:
    """`in (0, 1]`, `at least 1` and the like."""
    low = next(((b.ge, "[", "at least") for b in bounds if isinstance(b, Ge)), None)
    low = next(((b.gt, "(", "above") for b in bounds if isinstance(b, Gt)), low)
    high = next(((b.le, "]", "at most") for b in bounds if isinstance(b, Le)), None)
    high = next(((b.lt, ")", "below") for b in bounds if isinstance(b, Lt)), high)
    if low and high:
        return f"in {low[1]}{low[0]:,}, {high[0]:,}{high[1]}"
    return " ".join(f"{one[2]} {one[0]:,}" for one in (low, high) if one)


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return _yaml(field.default)
    if field.default_factory is MISSING:
        return "**required**"
    made = field.default_factory()
    return "" if is_dataclass(made) else _yaml(made)


def _yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"`{float(f'{value:.4g}')}`"
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=1000).splitlines()[0]}`"


def table(cls: type) -> str:
    """The keys of one dataclass as a table in Markdown."""
    found = list(keys(cls))
    if not found:
        return "No options.\n"
    rows = ["| key | allowed | default | what |", "|---|---|---|---|"]
    for key in found:
        cells = (f"`{key.name}`", key.allowed, key.default, key.says)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _about(cls: type) -> str:
    """The docstring in paragraphs, but for what only tells how the section is read."""
    return inspect.cleandoc(cls.__doc__ or "") + "\n"


def section(title: str, cls: type, said: str = "") -> str:
    return f"{title}\n\n{said or _about(cls)}\n{table(cls)}"


def _several(names: Any, word: str, title: str) -> Iterator[str]:
    """One sub-section for each entry of a table of names."""
    for key in names.TABLE:
        yield section(title.format(key=key), find(names, key, word))


def params_page() -> str:
    """docs/reference/params.md."""
    one = "### `{word}: {{key}}`"
    parts = [PARAMS, section("## `dataset`", params.Dataset), *_several(modalities, "kind", one.format(word="kind"))]
    parts.append(section("## `split`", params.Split))
    parts.append("## `augment`\n\n`kind` names one of these; its options stand beside it.\n")
    parts += _several(augmenters, "kind", one.format(word="kind"))
    parts.append(
        "## `candidates`\n\n`NAME: {detector: KEY, ...}` with the [options of the detector](detectors.md). These keys"
        " put something around it; `true` takes it as it is.\n"
    )
    parts += _several(wrappers, "wrapper", "### `{key}`")
    parts.append(CALIBRATE.format(by=allowed(plan.By)))
    parts += _several(rules, "rule", one.format(word="rule"))
    parts += [section("## `promote`", Promote), section("## `score`", Score)]
    parts += _several(sinks, "kind", "### `score.sinks`, `kind: {key}`")
    parts += [section("## `monitor`", Monitor), section("## `schedule`", Schedule)]
    return "\n".join(parts)


def detectors_page() -> str:
    """docs/reference/detectors.md."""
    parts, shared = [DETECTORS], dict[str, type]()
    for key in detectors.TABLE:
        cls: Any = find(detectors, key, "detector")
        anchor = key.replace("/", "-")
        source = f"<{cls.paper}>" if "://" in cls.paper else cls.paper
        parts.append(section(f"## `{key}` {{ #{anchor} }}", cls, f"{_about(cls)}\nSource: {source}\n"))
        hints = get_type_hints(cls, include_extras=True)
        shared |= {one.__name__.lower(): one for hint in hints.values() for one in _inside(hint) if _shared(one, cls)}
    parts += [section(f"## `{name}` {{ #{name} }}", cls) for name, cls in shared.items()]
    return "\n".join(parts)


def commands_page() -> str:
    """docs/reference/commands.md: the targets of the Makefile, and what `python -m` runs with its options."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):.*?## (.*)$", makefile, re.MULTILINE)
    rows = [f"| `make {name}` | {says} |" for name, says in targets]
    parts = [COMMANDS, "## make\n", "| command | what |\n|---|---|\n" + "\n".join(rows) + "\n"]
    parts.append("`LINE=DIR` names the line's folder; without it the one at the top of the checkout.\n")
    parts.append("## python -m\n\nInside the environment: `. .venv/bin/activate`.\n")
    for path in sorted(p for top in ("flows", "pipeline") for p in (ROOT / top).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if 'if __name__ == "__main__"' in text:
            parts.append(_command(path, ast.parse(text)))
    return "\n".join(parts)


def _command(path: Path, tree: ast.Module) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    says = (ast.get_docstring(tree) or "").split("\n\n")[0]
    rows = [row for node in ast.walk(tree) if isinstance(node, ast.Call) for row in _option(node)]
    options = "| option | what |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    return f"### `python -m {name}`\n\n{says}\n\n{options}"


def _option(call: ast.Call) -> Iterator[str]:
    """A row for a call of `add_argument`; nothing for any other."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"):
        return
    names = [word.value for word in call.args if isinstance(word, ast.Constant)]
    given = {word.arg: word.value for word in call.keywords}
    if "help" in given and isinstance(given["help"], ast.Constant) and names:
        yield f"| {', '.join(f'`{name}`' for name in names)} | {given['help'].value} |"


PAGES = {"params.md": params_page, "detectors.md": detectors_page, "commands.md": commands_page}

if __name__ == "__main__":
    for name, made in PAGES.items():
        (FOLDER / name).write_text(made(), encoding="utf-8")
