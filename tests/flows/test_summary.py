"""The summary's text, exactly."""

import json
from pathlib import Path

from flows import summary
from flows.summary import Candidate, Summary
from pipeline.params import Params

SECTIONS = {
    "candidates": {"bank": {"detector": "image/patchcore"}, "forest": {"detector": "table/isolation_forest"}},
    "promote": {"name": "parts"},
}
SCORED = {
    "name": "parts",
    "version": 7,
    "samples": 12,
    "decisions": {"accept": 9, "review": 1, "reject": 2},
    "quarantined": 3,
    "folder": "/elsewhere/scores/abc-v7",
}


def test_the_whole_text() -> None:
    shown = Summary(
        line="examples/parts",
        registered="parts",
        candidates=[
            Candidate("bank", "image/patchcore", {"auroc": 0.98765, "ap": 1.0, "aupro": 0.5, "false_alarm_rate": 0.025,
                                                  "promised_false_alarm_rate": 0.05}, 7),
            Candidate("forest", "table/isolation_forest", {"ap": 0.25, "promised_false_alarm_rate": 0.05}, 12),
        ],
        champion=7,
        says="parts version 7 (bank) is champion: it passed",
        scored=SCORED,
        reports=["examples/parts/reports/validation/docs/index.html", "examples/parts/reports/candidates/bank/"],
    )  # fmt: skip
    assert summary.text(shown) == (
        "candidate  detector                 AUROC      AP   AUPRO  promised  realised  version\n"
        "bank       image/patchcore         0.9877  1.0000  0.5000     5.00%     2.50%        7  champion\n"
        "forest     table/isolation_forest          0.2500             5.00%                 12\n"
        "\n"
        "parts version 7 (bank) is champion: it passed\n"
        "scored 12 samples with parts version 7: 9 accept, 1 review, 2 reject; 3 quarantined"
        " -> /elsewhere/scores/abc-v7/\n"
        "reports:\n"
        "  examples/parts/reports/validation/docs/index.html\n"
        "  examples/parts/reports/candidates/bank/\n"
        "make ui shows the runs and models: MLflow at http://127.0.0.1:5000, Prefect at http://127.0.0.1:4200\n"
        "promised, realised: the share of normal samples that may raise an alarm, and that of the test part that did"
    )


def test_a_broken_promise_is_marked_by_word_and_colour() -> None:
    kept = {"promised_false_alarm_rate": 0.05, "false_alarm_rate": 0.08, "false_alarm_rate_low": 0.05}
    broken = kept | {"false_alarm_rate": 0.12, "false_alarm_rate_low": 0.07}
    unknown = {"promised_false_alarm_rate": 0.05, "false_alarm_rate": 1.0}
    shown = Summary(
        "parts",
        "parts",
        [Candidate(name, "image/a", found, number) for number, (name, found) in enumerate(
            {"kept": kept, "broken": broken, "unknown": unknown, "failed": broken}.items()
        )],
        1, "", SCORED | {"monitoring": None}, [],
    )  # fmt: skip
    assert [row[""] for row in summary.rows(shown)] == ["", "champion, promise broken", "", "promise broken"]
    drawn = summary.text(shown, 100)
    assert drawn.count("\x1b[1;31m  12.00%\x1b[0m") == 2
    assert drawn.count("\x1b[1;31mchampion, promise broken") == 1
    assert "\x1b[1;32mbroken " in drawn  # the champion's name
    assert "9 accept, \x1b[1;33m1 review\x1b[0m, \x1b[1;31m2 reject\x1b[0m; \x1b[1;33m3 quarantined" in drawn


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    found = summary.read(tmp_path, Params(SECTIONS, tmp_path / "params.yaml"))
    assert summary.text(found).splitlines()[:4] == [
        "candidate  detector                version",
        "bank       image/patchcore",
        "forest     table/isolation_forest",
        "",
    ]
    assert len(summary.text(found).splitlines()) == 6
    assert summary.picture(found, tmp_path) is None


def test_read_collects_what_the_stages_left(tmp_path: Path) -> None:
    for name, auroc in (("bank", 0.7), ("forest", 0.9)):
        report = tmp_path / "reports/candidates" / name
        report.mkdir(parents=True)
        (report / "metrics.json").write_text(json.dumps({"auroc": auroc}))
        (report / "histogram.png").write_bytes(name.encode())
    (tmp_path / "reports/validation/docs").mkdir(parents=True)
    (tmp_path / "reports/validation/docs/index.html").touch()
    receipt = {"name": "parts", "candidates": {"bank": {"version": 3}, "forest": {"version": 2}}}
    (tmp_path / "reports/published.json").write_text(json.dumps(receipt))
    (tmp_path / "reports/promotion.json").write_text(json.dumps({"champion": 2, "says": "so it is"}))
    found = summary.read(tmp_path, Params(SECTIONS, tmp_path / "params.yaml"), SCORED)
    assert found == Summary(
        line=str(tmp_path),
        registered="parts",
        candidates=[
            Candidate("forest", "table/isolation_forest", {"auroc": 0.9}, 2),
            Candidate("bank", "image/patchcore", {"auroc": 0.7}, 3),
        ],
        champion=2,
        says="so it is",
        scored=SCORED,
        reports=[
            f"{tmp_path}/reports/validation/docs/index.html",
            f"{tmp_path}/reports/candidates/bank/",
            f"{tmp_path}/reports/candidates/forest/",
        ],
    )
    assert [row[""] for row in summary.rows(found)] == ["champion", ""]
    assert summary.picture(found, tmp_path) == tmp_path / "reports/candidates/forest/histogram.png"
