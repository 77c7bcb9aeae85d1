"""A new line is a folder with its own params, on the one DAG; lines do not touch each other."""

from pathlib import Path

import pytest
import yaml

from pipeline import line
from pipeline.errors import ParamsError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("dvc.yaml", "params.yaml", ".dvc/.gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(line, "ROOT", tmp_path)
    return tmp_path


def test_a_new_line_reaches_the_dag_and_has_its_own_name(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_text()
    line.make(checkout / "lines/camera3", like=checkout)
    made = checkout / "lines/camera3"
    sections = yaml.safe_load((made / "params.yaml").read_text())
    assert (made / "dvc.yaml").resolve() == checkout / "dvc.yaml"
    assert sections["root"] == "../.."
    assert sections["promote"]["name"] == "camera3"
    assert sections["candidates"] == yaml.safe_load(before)["candidates"]
    assert (made / "data/raw").is_dir()
    assert (made / "data/labelled/.gitkeep").exists()
    assert (made / ".dvc/config").exists()
    assert (checkout / "params.yaml").read_text() == before


def test_a_line_is_never_overwritten_and_stands_inside_the_checkout(checkout: Path, tmp_path: Path) -> None:
    line.make(checkout / "lines/a", like=checkout)
    with pytest.raises(ParamsError, match="holds a line already"):
        line.make(checkout / "lines/a", like=checkout)
    with pytest.raises(ParamsError, match="must be a folder inside"):
        line.make(checkout.parent / "elsewhere", like=checkout)
    with pytest.raises(ParamsError, match="must be a folder inside"):
        line.make(checkout, like=checkout)
    with pytest.raises(ParamsError, match="must hold a params.yaml"):
        line.make(checkout / "lines/b", like=checkout / "nothing")
    assert not (checkout / "lines/b").exists()
