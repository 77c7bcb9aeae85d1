"""Look a class up in one of the tables of names (`modalities`, `detectors`, `augmenters`), importing only its file."""

from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from pipeline.errors import ParamsError


def find(table: ModuleType, key: str, where: str) -> type:
    """The class behind `key` in `table.TABLE`; `where` names the params key for the message.

    Raises ParamsError, with the nearest names, for a key that the table lacks."""
    names: dict[str, str] = table.TABLE
    if key not in names:
        near = get_close_matches(str(key), names, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ParamsError(f"{where} must be one of {', '.join(names)}, got {key!r} (params.yaml){hint}")
    return getattr(import_module(f"{table.__name__}.{key.replace('/', '.')}"), names[key])
