"""What benchmarks/methods.yaml says of the image detectors: the papers' figures, and what switches each idea off."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("methods.yaml")
REGIMES = ("all-class", "few-shot", "zero-shot")
Options = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A section of methods.yaml: `regimes` and `ablation` name the options that each of them needs."""

    published: str = ""
    difference: str = ""
    regimes: dict[str, Options] = field(default_factory=dict)
    ablation: dict[str, Options] = field(default_factory=dict)


def methods(file: Path = FILE) -> dict[str, Method]:
    """All sections by detector. Raises ValueError for one that is not as the file's top says."""
    sections = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return {name: _method(name, section) for name, section in sections.items()}


def _method(name: str, section: Any) -> Method:
    known = [one.name for one in fields(Method)]
    if not isinstance(section, dict) or set(section) - set(known):
        raise ValueError(f"{name} must have no keys but {', '.join(known)}, got {section!r} ({FILE.name})")
    texts = {key: " ".join(str(section[key]).split()) for key in ("published", "difference") if key in section}
    regimes = section.get("regimes", {})
    if isinstance(regimes, list):
        regimes = dict.fromkeys(regimes, None)
    ablation = section.get("ablation", {})
    if not isinstance(regimes, dict) or set(regimes) - set(REGIMES):
        raise ValueError(f"{name}.regimes must be of {', '.join(REGIMES)}, got {regimes!r} ({FILE.name})")
    if not isinstance(ablation, dict) or not all(ablation.values()):
        raise ValueError(f"{name}.ablation must map words to options, got {ablation!r} ({FILE.name})")
    return Method(**texts, regimes={key: value or {} for key, value in regimes.items()}, ablation=ablation)
