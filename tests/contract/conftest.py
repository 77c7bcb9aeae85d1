from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.worlds import World, world


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    made: dict[str, World] = {}

    def get(kind: str) -> World:
        if kind not in made:
            made[kind] = world(kind, Path(tmp_path_factory.mktemp(kind)))
        return made[kind]

    return get
