"""Every bad file is set aside with its reason, bytes and all."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pil

from pipeline.errors import DataError
from tests.modalities.conftest import Ingest
from tests.modalities.pictures import encoded, huge_png, noise, png16, put, write


def gif_of_two() -> bytes:
    buffer = io.BytesIO()
    one, two = (Pil.fromarray(noise(8, 8, seed=seed)) for seed in (0, 1))
    one.save(buffer, "GIF", save_all=True, append_images=[two])
    return buffer.getvalue()


BAD = {
    "empty.png": (b"", "the file is empty (0 bytes)"),
    "cut.jpg": (encoded(Pil.fromarray(noise(64, 64)), "JPEG")[:1500], "truncated or damaged"),
    "cut.png": (encoded(Pil.fromarray(noise(64, 64)), "PNG")[:1500], "truncated or damaged"),
    "text.png": (b"hello, I am a text", "not an image in a known format (PNG, JPEG"),
    "deep.png": (
        encoded(Pil.fromarray(noise(8, 8).astype(np.uint16)), "PNG"),
        "more than 8 bits a channel (mode I;16)",
    ),
    "deep-rgb.png": (png16(8, 8), "more than 8 bits a channel (mode RGB)"),
    "print.jpg": (encoded(Pil.new("CMYK", (8, 8)), "JPEG"), "mode CMYK is not supported; allowed are L, RGB"),
    "float.tif": (encoded(Pil.new("F", (8, 8)), "TIFF"), "mode F is not supported"),
    "huge.png": (huge_png(), "10000 x 10000 pixels are more than dataset.max_pixels allows (50,000,000)"),
    "film.gif": (gif_of_two(), "2 frames in one file, allowed is 1"),
}


def test_bad_files_are_set_aside_each_with_its_reason(raw: Path, ingest: Ingest, tmp_path: Path) -> None:
    put(raw / "fine.png")
    for name, (data, _) in BAD.items():
        put(raw / name, data)
    found = ingest(raw)
    assert found.manifest["id"].tolist() == ["fine.png"]
    assert sorted(found.rejected["id"]) == sorted(BAD)
    for row in found.rejected.itertuples():
        assert BAD[row.id][1] in row.reason
        assert str(tmp_path) not in row.reason
        assert (tmp_path / "quarantine" / row.path).read_bytes() == BAD[row.id][0]
    listed = pd.read_csv(tmp_path / "quarantine/rejected.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(listed, pd.read_parquet(tmp_path / "quarantine/rejected.parquet"))
    assert not (tmp_path / "dataset/images/empty.png").exists()


def test_bad_masks_set_their_image_aside(raw: Path, ingest: Ingest) -> None:
    text = "path,label,mask\nfine.png,0,\n"
    for name in ("size", "cut", "gone"):
        put(raw / f"{name}.png")
        text += f"{name}.png,1,{name}_mask.png\n"
    put(raw / "size_mask.png", noise(32, 24))
    put(raw / "cut_mask.png", encoded(Pil.fromarray(noise(24, 32)), "PNG")[:300])
    put(raw / "fine.png")
    found = ingest(write(raw, text + "lost.png,0,\n"))
    assert found.manifest["id"].tolist() == ["fine.png"]
    reasons = dict(zip(found.rejected["id"], found.rejected["reason"], strict=True))
    assert reasons["size.png"] == "its mask is 24 x 32 pixels, the image 32 x 24"
    assert reasons["cut.png"].startswith("its mask cut_mask.png: truncated or damaged")
    assert reasons["gone.png"] == "its mask gone_mask.png: the file is missing"
    assert reasons["lost.png"] == "the file is missing"
    paths = dict(zip(found.rejected["id"], found.rejected["path"], strict=True))
    assert (paths["lost.png"], paths["cut.png"]) == ("", "files/cut.png")


def test_nothing_readable_left(raw: Path, ingest: Ingest) -> None:
    put(raw / "a.png", b"")
    with pytest.raises(
        DataError, match=r"^raw must hold images that can be read, got 1 others \(a.png: the file is emp"
    ):
        ingest(raw)
