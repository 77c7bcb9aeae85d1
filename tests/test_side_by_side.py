"""All candidates in one place, and what DVC's own commands make of it."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline import params, side_by_side
from pipeline.errors import LineError
from pipeline.stages import COMPARISON, compare
from tests import small_line
from tests.browser import Watched

ROOT = Path(__file__).parents[1]


@pytest.fixture
def compared(line: Path) -> Path:
    with contextlib.chdir(line):
        compare.main()
    return line


def test_every_candidate_has_the_same_names(compared: Path) -> None:
    out = compared / COMPARISON
    assert sorted(path.name for path in (out / "metrics").iterdir()) == ["few.json", "many.json"]
    few, many = (json.loads((out / f"metrics/{name}.json").read_text()) for name in ("few", "many"))
    assert few.keys() == many.keys()
    assert {"auroc", "false_alarm_rate"} <= few.keys()
    assert not any("." in key for key in few)
    points = pd.read_csv(out / "curves.csv")
    assert set(points["candidate"]) == {"few", "many"}
    counts = points.groupby(["candidate", "curve"]).size()
    assert set(counts) == {101}
    assert len(counts) == 4
    bins = pd.read_csv(out / "histogram.csv")
    assert bins.groupby(["candidate", "class"])["share"].sum().round(6).eq(1).all()


def test_equal_reports_give_equal_bytes(compared: Path, tmp_path: Path) -> None:
    side_by_side.write(params.read(compared / "params.yaml"), compared, tmp_path / "again")
    for path in (tmp_path / "again").rglob("*.*"):
        assert path.read_bytes() == (compared / COMPARISON / path.relative_to(tmp_path / "again")).read_bytes()


def test_a_candidate_without_a_report_is_named(compared: Path, tmp_path: Path) -> None:
    shutil.rmtree(compared / "reports/candidates/few")
    with pytest.raises(LineError, match=r"few/metrics\.json is needed to compare few and is missing"):
        side_by_side.write(params.read(compared / "params.yaml"), compared, tmp_path / "again")


def test_reports_without_curves_leave_files_that_dvc_can_read(compared: Path, tmp_path: Path) -> None:
    for name in ("roc.csv", "pr.csv", "histogram.csv"):
        for path in (compared / "reports/candidates").glob(f"*/{name}"):
            path.unlink()
    side_by_side.write(params.read(compared / "params.yaml"), compared, tmp_path / "again")
    assert len(pd.read_csv(tmp_path / "again/curves.csv")) == 1


@pytest.fixture
def repository(compared: Path, tmp_path: Path) -> Path:
    """The line as a DVC repository, committed, with another candidate `few` since."""
    (compared / "checkout").symlink_to(ROOT)
    small_line.write(compared, small_line.PARAMS | {"root": "checkout", "augment": {"kind": "none"}})
    text = (compared / "params.yaml").read_text().replace("kind: table", "kind: table\n  watch: data/raw")
    (compared / "params.yaml").write_text(text)
    shutil.copyfile(ROOT / "dvc.yaml", compared / "dvc.yaml")
    (compared / "dvc.lock").unlink()
    (compared / ".dvc").mkdir()
    config = (ROOT / ".dvc/config").read_text().replace("../pipeline", "../checkout/pipeline")
    (compared / ".dvc/config").write_text(config)
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", *words], cwd=compared, check=True)
    path = compared / "reports/candidates/few/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auroc": 0.125}))
    with contextlib.chdir(compared):
        compare.main()
    return compared


def dvc(line: Path, *words: str) -> str:
    """What a command of DVC prints. A process each: in this one, DVC may write to the stdout of an earlier test."""
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=line, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_dvc_tells_what_changed_for_each_candidate(repository: Path) -> None:
    shown = json.loads(dvc(repository, "metrics", "show", "--json"))[""]["data"]
    assert {Path(path).stem: entry["data"]["auroc"] < 0.5 for path, entry in shown.items()} == {
        "few": True,
        "many": False,
    }
    changed = json.loads(dvc(repository, "metrics", "diff", "--json"))
    assert list(changed) == ["reports/comparison/metrics/few.json"]
    assert list(changed["reports/comparison/metrics/few.json"]) == ["auroc"]
    heading = dvc(repository, "exp", "show", "--csv").splitlines()[0].split(",")
    assert {f"reports/comparison/metrics/{name}.json:auroc" for name in ("few", "many")} <= set(heading)


def test_dvc_draws_the_curves_without_a_network(repository: Path, page: object, watched: Watched) -> None:
    assert "index.html" in dvc(repository, "plots", "diff", "HEAD")
    page.goto((repository / "dvc_plots/index.html").as_uri())
    assert page.locator("figcaption").all_inner_texts() == [
        "ROC: detection rate over false-alarm rate",
        "PR: precision over recall",
        *(f"{name}, {revision}" for name in ("many", "few") for revision in ("workspace", "HEAD")),
    ]
    legend = page.locator(".legend").first.locator(":scope > span").all_text_contents()
    assert legend == ["●many, workspace", "●many, HEAD", "■few, workspace", "■few, HEAD"]
    assert page.locator("svg[role=img] path").count() == 2 * 2 * 2
