"""A section of params.yaml, or of a model's card, as an instance of the dataclass that it configures."""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import ParamsError

T = TypeVar("T")


def build(cls: type[T], section: Any, where: str, source: str = "params.yaml") -> T:
    """`section` as an instance of the dataclass `cls`; `where` is its place, for messages.

    Raises ParamsError for the first thing that does not fit."""
    if not isinstance(section, Mapping):
        raise ParamsError(f"{where} must hold keys and values, got {section!r} ({source})")
    _forbid_unknown_keys(cls)
    try:
        return TypeAdapter(cls).validate_json(json.dumps(section), strict=True)
    except TypeError as error:  # YAML dates and the like have no JSON form
        raise ParamsError(f"{where} must hold plain numbers, texts and lists: {error} ({source})") from error
    except ValidationError as error:
        raise ParamsError(_sentence(cls, error, where, source)) from error


def _forbid_unknown_keys(cls: type) -> None:
    """Tell pydantic to refuse unknown keys in `cls` and in every dataclass among its fields."""
    if cls.__dict__.get("__pydantic_config__"):
        return
    cls.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    waiting = list(get_type_hints(cls, include_extras=True).values())
    while waiting:
        hint = waiting.pop()
        waiting += get_args(hint)
        if isinstance(hint, type) and is_dataclass(hint):
            _forbid_unknown_keys(hint)


def _sentence(cls: type, error: ValidationError, where: str, source: str) -> str:
    first = error.errors()[0]
    key = ".".join([where, *(str(step) for step in first["loc"])])
    if first["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        allowed = [f.name for f in fields(cls) if f.init] if len(first["loc"]) == 1 else []
        near = get_close_matches(str(first["loc"][-1]), allowed, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        listed = f"; allowed are {', '.join(allowed)}" if allowed else ""
        return f"{key} is not a known key ({source}){hint}{listed}"
    if first["type"] in {"missing", "missing_argument"}:
        return f"{key} is required and missing ({source})"
    said = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{key} {said.replace('should', 'must', 1)}, got {first['input']!r} ({source})"
