"""The benchmarks run and their figures are of the right kind; how fast they are is not tested."""

import json
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pil
from torch import Tensor, nn

from benchmarks import image_runs, image_tables, images, peer_training, peers, regimes
from benchmarks import page as pages
from benchmarks.methods import methods
from benchmarks.page import page
from pipeline import detectors
from pipeline.tables import find
from tests.pictures import planted, stripes, view, whole

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of stripes in a folder, `one` and `two`: upright ones and ones lying down, with a square as the last of
    each test."""
    out = tmp_path_factory.mktemp("sets")
    for at, name in enumerate(("one", "two")):
        (out / name).mkdir()
        rows = []
        for kind, pictures in (("train", stripes(12, at)), ("calibrate", stripes(4, 2)), ("test", planted(4, 3)[0])):
            for i, image in enumerate(pictures):
                path = f"{name}/{kind}{i}.png"
                Pil.fromarray((image if at else image[:, ::-1]).transpose(1, 2, 0)).save(out / path)
                odd = kind == "test" and i == len(pictures) - 1
                rows.append({"path": path, "label": int(odd), "defect": "square" * odd, "split": kind})
                rows[-1]["mask"] = f"{name}/mask.png" * odd
        Pil.fromarray(planted(4, 3)[1][-1]).save(out / name / "mask.png")
        pd.DataFrame(rows).to_csv(out / f"{name}.csv", index=False)
    return out


def chosen(folder: Path, sets: str, *more: str) -> Any:
    split = ",".join(str(folder / f"{name}.csv") for name in sets.split("+"))
    given = ["--data", str(folder), "--split", split, "--size", "48x48", "--fit", "stretch", "--quick"]
    return images.arguments().parse_args(
        [*given, "--detectors", "gaussian", "--options", "{gaussian: {maps: true}}", *more]
    )


def test_images_measures_a_detector_and_makes_its_page(folder: Path, tmp_path: Path) -> None:
    given = ["--data", str(folder), "--split", str(folder / "one.csv"), "--size", "48x48"]
    out = tmp_path / "out.jsonl"
    more = ["--detectors", "gaussian", "--options", "{gaussian: {maps: true}}", "--out", str(out)]
    run("benchmarks.images", *given, *more)
    line = json.loads(out.read_text())
    assert line["image_auroc"] == line["auroc.square"] == 1.0
    assert line["fit_s"] > 0
    assert line["images_per_s"] == pytest.approx(1000 / line["score_ms"])
    assert line["train_ms"] == pytest.approx(1000 * line["fit_s"] / 12)
    assert (line["train"], line["test"]) == (12, 4)
    shown = run("benchmarks.page", str(out))
    assert shown == page([line])
    assert "| one | gaussian | assay | 48 x 48 letterbox | maps True | 1.000 |" in shown


def test_sets_together_are_categories_of_one_model(folder: Path) -> None:
    given = chosen(folder, "one+two", "--together")
    (only,) = images.runs(given)
    line = images.line(given, only)
    assert (line["set"], line["regime"], line["train"], line["test"]) == ("one+two", "all-class", 24, 8)
    each = line["categories"]
    assert set(each) == {"one", "two"}
    for figure in ("image_auroc", "ap"):
        assert line[figure] == pytest.approx((each["one"][figure] + each["two"][figure]) / 2)


def test_shots_are_drawn_of_each_category_and_figures_are_means_over_the_draws(folder: Path) -> None:
    given = chosen(folder, "one+two", "--together", "--shots", "2", "--draws", "3")
    line = images.line(given, images.Run("one+two", "gaussian"))
    assert (line["train"], line["shots"], line["draws"]) == (4, 2, 3)
    assert "spread" in line
    train = pd.DataFrame({"category": ["a"] * 5 + ["b"] * 5, "id": range(10)})
    first, again, other = (regimes.drawn(given, "one+two", train, seed)["id"].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert [sum(i < 5 for i in first), len(first)] == [2, 4]


def test_an_unseen_set_gives_training_nothing_but_its_shots(folder: Path) -> None:
    for shots, expected in ((0, {"one": 20}), (1, {"one": 20, "two": 1})):
        given = chosen(folder, "one+two", "--unseen", "--shots", str(shots))
        assert [run.set for run in images.runs(given)] == ["one", "two"]
        rows = [{"category": c, "split": s, "label": 0, "id": f"{c}{s}{i}"} for c in ("one", "two")
                for s, n in (("train", 12), ("calibrate", 4), ("test", 4)) for i in range(n)]  # fmt: skip
        train, test = regimes.parts(given, "two", pd.DataFrame(rows), None, folder)
        train = regimes.drawn(given, "two", train, 0)
        assert train["category"].value_counts().to_dict() == expected
        assert (test["category"] == "two").all()
        assert (test["split"] == "test").all()
        assert not set(train["id"]) & set(test["id"])
        assert regimes.regime(given) == ("few-shot" if shots else "zero-shot")
    line = images.line(given, images.Run("two", "gaussian"))
    assert line["learned_on"] == ["one"]
    assert regimes.filled({"learn": "OTHERS", "shots": "SHOTS", "x": [1]}, given, "two") == {
        "learn": ["one"], "shots": 1, "x": [1],
    }  # fmt: skip
    assert regimes.filled({"learn": "OTHERS"}, chosen(folder, "one", "--shots", "1"), "one") == {"learn": None}


def test_a_whole_test_is_scored_as_one_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import scoring

    seen = []
    score = scoring.score
    monkeypatch.setattr(scoring, "score", lambda d, s, size, **k: (seen.append(size), score(d, s, size, **k))[1])
    assert images.line(chosen(folder, "one", "--whole"), images.Run("one", "gaussian"))["regime"] == "zero-shot"
    assert seen == [4]


def test_ablations_follow_the_whole_method_in_the_same_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = images.Method(ablation={"no maps": {"maps": False}}, regimes={"few-shot": {"levels": 3}})
    monkeypatch.setattr(images, "methods", lambda: {"gaussian": method})
    given = chosen(folder, "one", "--ablate")
    whole, off = (images.line(given, run) for run in images.runs(given))
    assert "ablation" not in whole
    assert (off["ablation"], off["off"], off["params"]["maps"]) == ("no maps", {"maps": False}, False)
    assert "pixel_auroc" in whole
    assert "pixel_auroc" not in off
    few = images.candidates(chosen(folder, "one", "--shots", "1"))[1]["gaussian"]
    assert few["levels"] == 3


def test_a_peer_that_cannot_run_says_why(folder: Path) -> None:
    given = chosen(folder, "one", "--peer", "anomalib")
    assert [run.peer for run in images.runs(given)] == [False, True]
    line = images.line(given, images.runs(given)[1])
    assert line["by"] == "anomalib"
    assert line["failed"].startswith("no peer for gaussian here")


def test_what_a_peer_imports_is_in_memory_before_it_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    usage, make = resource.getrusage, image_runs.Params.detector
    monkeypatch.setattr(peers, "anomalib", lambda name, section, own, size: order.append("made") or own)
    monkeypatch.setattr(resource, "getrusage", lambda who: order.append("memory") or usage(who))
    line = images.line(chosen(folder, "one", "--peer", "anomalib"), images.Run("one", "gaussian", peer=True))
    assert "failed" not in line
    assert order == ["made", "memory", "memory"]
    order.clear()
    monkeypatch.setattr(image_runs.Params, "detector", lambda *given: order.append("made") or make(*given))
    line = images.line(chosen(folder, "one", "--shots", "2", "--draws", "2"), images.Run("one", "gaussian"))
    assert order == ["made", "memory", "memory", "made", "memory"]  # a new one for each draw


@pytest.mark.parametrize(("at_once", "size"), [(True, 4), (False, image_runs.BATCH)])
def test_a_peer_that_measures_by_its_batch_is_judged_on_all_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool, size: int
) -> None:
    def marked(name: str, section: Any, own: Any, size: list[int]) -> Any:
        own.at_once = at_once
        return own

    seen, score = [], image_runs.scoring.score
    monkeypatch.setattr(peers, "anomalib", marked)
    monkeypatch.setattr(image_runs, "on_gpu", lambda *_: {})
    spied = SimpleNamespace(score=lambda d, s, size, **k: (seen.append(size), score(d, s, size, **k))[1])
    monkeypatch.setattr(image_runs, "scoring", spied)
    given = chosen(folder, "one", "--peer", "anomalib")
    given.quick = False
    line = images.line(given, images.Run("one", "gaussian", peer=True))
    assert seen == [image_runs.BATCH, size]  # for the speed, then for the figures
    assert line.get("at_once", False) is at_once


def test_an_encoder_in_blocks_finds_the_same_of_few_images_at_a_time() -> None:
    seen = []
    encode = peer_training.in_blocks(lambda x: (seen.append(len(x)), {"a": 2 * x, "b": x[:, :1]})[1])
    images = torch.arange(40.0).view(20, 2)
    found = encode(images)
    assert torch.equal(found["a"], 2 * images)
    assert torch.equal(found["b"], images[:, :1])
    assert seen == [16, 4]


def test_lines_name_the_commit_where_there_is_git(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"rev-parse": "0123456789ab", "status": ""}
    monkeypatch.setattr(image_runs, "_git", lambda *words: answers[words[0]])
    assert images.line(chosen(folder, "one"), images.Run("one", "gaussian"))["revision"] == "0123456789ab"
    answers["status"] = " M pipeline/params.py"
    assert image_runs.revision() == {"revision": "0123456789ab+"}
    monkeypatch.undo()
    found = image_runs.revision().get("revision", "0" * 12)  # a copy without git has none
    assert len(found.rstrip("+")) == 12
    assert int(found.rstrip("+"), 16) >= 0
    monkeypatch.setenv("PATH", str(tmp_path))
    assert image_runs.revision() == {}


def test_a_bank_of_another_networks_features_has_no_bound() -> None:
    section = {"backbone": {"name": "test_resnet", "levels": [1, 2]}}
    maps = image_runs.features.load(image_runs.Backbone(**section["backbone"])).maps(np.zeros((1, 3, 32, 32), np.uint8))
    channels = sum(level.shape[1] for level in maps)
    for width, expected in ((channels, True), (maps[-1].shape[1], False)):
        found = image_runs.speeds(SimpleNamespace(bank_=torch.zeros(5, width)), [32, 32], section)
        assert ("bound_per_s" in found) == expected
        assert found["bare_per_s"] > 0


class Mean(nn.Module):
    """A network with one weight, whose map is that many times the image's first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(anomaly_map=self.weight * images[:, :1], pred_score=None)


class Module:
    """A stand-in for a Lightning module of anomalib's."""

    seen: ClassVar[list[int]] = []

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(self.model.parameters(), 1.0)
        return [optimiser], [torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: float(step < 2))]

    def training_step(self, batch: Any) -> dict[str, Tensor]:
        Module.seen.append(len(batch.image))
        return {"loss": self.model.weight}


@pytest.mark.parametrize(("by_step", "weight"), [(True, -1.0), (False, -3.0)])
def test_a_peer_learns_by_the_steps_of_its_module(by_step: bool, weight: float) -> None:
    Module.seen.clear()
    x = stripes(6, 0)
    own = SimpleNamespace(steps=4, batch=5)
    peer = peer_training.Learner(Module, Mean(), peer_training.UNTOUCHED, own, by_step=by_step).fit(view(x))
    assert Module.seen == [5] * 4
    scores = peer.score(whole(view(x)))  # the weight falls by the rate, 1 in each step or 0 after two
    np.testing.assert_allclose(scores.local, weight * x[:, 0] / 255, rtol=1e-6)
    np.testing.assert_allclose(scores.sample, (weight * x[:, 0] / 255).max(axis=(1, 2)), rtol=1e-6)


def test_maps_are_tokens_for_a_peer_that_knows_vits_only() -> None:
    grid = peer_training.Grid({"name": "mobilenetv2_100", "levels": [2, 3]}, [4, 7])
    images = torch.rand(3, 3, 64, 64)
    grid.learn([images])
    found = grid(images)
    assert list(found) == ["blocks.4", "blocks.7"]
    assert found["blocks.4"].shape == (3, 64, 32 + 96)  # the finest level's 8 x 8
    assert grid.patch_size == 8
    torch.testing.assert_close(found["blocks.7"].mean(dim=(0, 1)), torch.zeros(128), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--on", "given"], "--on given needs --labelled"),
        (["--together"], "need two sets"),
        (["--draws", "2"], "needs --shots"),
        (["--shots", "-1"], "0 or more"),
        (["--shots", "2", "--labelled", "0.1"], "--shots goes without --labelled"),
        (["--on", "calibrate", "--labelled", "0.1"], "--on calibrate goes without --labelled"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    folder: Path, given: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ["--data", str(folder), "--split", str(folder / "one.csv"), "--detectors", "gaussian"]
    monkeypatch.setattr(sys, "argv", ["images", *plain, *given])
    with pytest.raises(SystemExit):
        images.checked(images.arguments())
    assert says in capsys.readouterr().err


def test_what_methods_switches_off_or_needs_are_options_of_the_detectors() -> None:
    for name, method in methods().items():
        known = {field.name for field in fields(find(detectors, f"image/{name}", "methods.yaml"))}
        for options in (*method.ablation.values(), *method.regimes.values()):
            assert set(options) <= known, name
        assert method.published, name


def test_a_section_of_methods_that_is_not_as_its_file_says_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "methods.yaml"
    for text, says in (
        ("a: {paper: x}", "no keys but"),
        ("a: {regimes: [few]}", "all-class"),
        ("a: {ablation: [x]}", "map words"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=says):
            methods(file)
    file.write_text("a: {regimes: [few-shot], ablation: {without: {x: 0}}}")
    assert methods(file)["a"].regimes == {"few-shot": {}}


def test_one_command_measures_every_method_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    told = tmp_path / "python"
    told.write_text('#!/bin/sh\nprintf "%s\\t" "$@"\necho\n[ "$8" != fader ]\n')
    told.chmod(0o755)
    command = ["sh", str(ROOT / "benchmarks/images.sh"), "shared", "out.jsonl"]
    done = subprocess.run(command, env={"PYTHON": str(told), "PATH": "/bin:/usr/bin"}, capture_output=True, text=True)
    calls = [images.arguments().parse_args(line.split("\t")[2:-1]) for line in done.stdout.splitlines()]
    named = {name for call in calls for name in call.detectors.split(",")}
    assert done.returncode == 1
    assert {name for name, method in methods().items() if method.ablation} <= named
    assert {f"image/{name}" for name in named} <= set(detectors.TABLE)
    assert calls[-1].unseen
    assert calls[-1].detectors == "inpformer"


def kept(**more: Any) -> dict[str, Any]:
    """A line as the benchmark writes them."""
    line = {"detector": "x", "by": "assay", "set": "a", "on": "test", "params": {"detector": "image/x"}, "test": 10}
    line |= {"dataset": {"size": [224, 224], "fit": "stretch"}, "train": 10, "fit_s": 1.0, "images_per_s": 20.0}
    line |= {"peak_mb": 10.0, "machine": "M", "threads": 2, "torch": "2", "image_auroc": 0.9, "aupro": 0.5}
    return line | more


def test_the_page_puts_each_line_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"x": images.Method(published="99.0 on MVTec AD", difference="A smaller backbone.")}
    monkeypatch.setattr(pages, "methods", lambda: told)
    each = {"a": {"image_auroc": 0.8, "aupro": 0.4}, "b": {"image_auroc": 0.6, "aupro": 0.2}}
    lines = [
        kept(),
        kept(by="anomalib", image_auroc=0.88, fit_s=4.0),
        kept(params={"detector": "image/x", "mining": 0}, ablation="no mining", off={"mining": 0}, image_auroc=0.85),
        kept(set="b", image_auroc=0.7),
        kept(set="a+b", regime="all-class", categories=each, image_auroc=0.7, aupro=0.3),
        kept(regime="few-shot", shots=2, draws=3, spread=0.01, image_auroc=0.75),
        kept(regime="zero-shot", learned_on=["b"], image_auroc=0.65),
        kept(
            params={"detector": "image/x", "learn": ["b"], "shots": 2},
            regime="few-shot",
            learned_on=["b"],
            shots=2,
            draws=1,
        ),
        kept(labels="10% of the defects given with masks", image_auroc=0.95),
        {key: value for key, value in kept(set="b", by="anomalib", failed="No such model.").items() if key != "torch"},
        kept(by="anomalib", detector="y"),
        {key: value for key, value in kept(image_auroc=0.97, threads=1).items() if key != "images_per_s"},
    ]
    sections = {part.split("\n")[0]: part for part in page(lines).split("\n## ")}
    expected = {
        "What the papers say, and what stands here": "| **x**<br>none, A | 99.0 on MVTec AD "
        "| 0.900<br>0.700 | 0.880<br>- | A smaller backbone.<br>`--detectors x --peer anomalib` |",
        "One model for all sets": "| x | assay | 0.700 / 0.300 | 0.800 | 0.800 / 0.400 | 0.600 / 0.200 |",
        "Few normal images": "| x | assay | 2 normal images, mean of 3 draws | 0.750 ± 0.010 / 0.500 |",
        "No normal images": "| x | assay | learned on the other sets | 0.650 / 0.500 |",
        "With labelled defects": "| a | x | assay | 224 x 224 stretch | 10% of the defects given with masks | 0.950 |",
        "What the ideas are worth": "| x | nothing | 0.900 / 0.500 |\n|  | no mining | -0.050 / +0.000 |",
        "Beside anomalib, on the same images, weights and settings": "| a | x | +0.020 | +0.000 "
        "| 100.0 / 400.0 (4.0 times) | 50.0 / 50.0 (1.0 times) | 100% |",
    }
    for name, row in expected.items():
        assert row in sections[name], name
    assert "lay 0.01 or more apart for x on a (0.070)." in sections["What the ideas are worth"]
    assert "| x | assay | learned on the other sets, 2 normal images | 0.900 / 0.500 |" in sections["Few normal images"]
    assert "- x, none: No such model." in page(lines)
    assert (
        "[above](#what-the-ideas-are-worth), a difference"
        in sections["Beside anomalib, on the same images, weights and settings"]
    )
    assert "says\nnothing" not in page(lines[:4])
    assert "epoch_s" not in page(lines)
    assert "| epoch_s |" in page([kept(epoch_s=1.5)])
    assert sections["One model per set"].count("\n| ") == 5  # the heading, three of x and one of y


def test_runs_of_two_revisions_are_not_of_the_same_thing() -> None:
    one, two = kept(threads=1, image_auroc=0.9), kept(threads=2, image_auroc=0.8)
    for revisions, paired in ((("a", "a"), True), (("a", None), True), ((None, None), True), (("a", "b"), False)):
        lines = [
            line | ({"revision": revision} if revision else {})
            for line, revision in zip((one, two), revisions, strict=True)
        ]
        assert ("x on a (0.100)" in image_tables.unrest(lines)) == paired, revisions
    several = [one | {"revision": "a"}, two | {"revision": "b"}, kept(threads=2, image_auroc=0.87, revision="a")]
    assert "x on a (0.030)" in image_tables.unrest(several)


def test_bare_speeds_of_the_same_network_are_told_by_their_range() -> None:
    params = {"detector": "image/x", "backbone": {"name": "n"}}
    lines = [kept(set=name, params=params, bare_per_s=speed) for name, speed in zip("abc", (20, 76.4, 50), strict=True)]
    lines.append(kept(params={**params, "backbone": {"name": "m"}}, bare_per_s=500.0))
    assert "same network, n at 224 x 224 stretch, was 20 to 76, as" in image_tables.bare(lines)
    assert image_tables.bare(lines[2:]) == ""
    assert image_tables.bare(lines) in page(lines)


def test_a_command_names_a_backbone_that_is_not_the_pages() -> None:
    known = {"name": "mobilenetv2_100", "weights": "mobilenetv2_100.safetensors", **images.MOBILENET}
    other = {"name": "resnet18", "weights": "resnet18.safetensors"}
    expected = {
        "--detectors x": known,
        "--detectors x --backbone resnet18 --weights ../shared/weights/resnet18.safetensors": other,
    }
    for command, backbone in expected.items():
        assert image_tables.command(kept(params={"detector": "image/x", "backbone": backbone})) == command


def test_the_page_tells_by_what_cflows_maps_are_measured() -> None:
    peer = kept(by="anomalib", detector="cflow")
    assert "here 16 images" in page([peer])
    assert "here the whole test" in page([peer | {"at_once": True}])


def test_the_page_of_results_is_that_of_the_results_kept() -> None:
    kept = ROOT / "docs/results"
    lines = [json.loads(line) for line in (kept / "images.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (kept / "images.md").read_text(encoding="utf-8") == page(lines), "run python -m benchmarks.page"


def test_parts_are_measured() -> None:
    small = ["--points", "400", "--centres", "20", "--queries", "50", "--dims", "8", "--rounds", "1"]
    coreset = json.loads(run("benchmarks.parts", "coreset", *small).splitlines()[-1])
    assert 0 < coreset["own_radius"] < 10
    nearest = json.loads(run("benchmarks.parts", "nearest", *small).splitlines()[-1])
    assert nearest["of_product"] > 0
