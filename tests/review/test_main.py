"""The command: what it says, and how it ends when it cannot serve."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.errors import LineError
from pipeline.review import __main__ as command
from pipeline.review.guard import is_loopback
from tests.review.conftest import BATCH


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command.main(*words)
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_what_cannot_be_served_is_said_in_a_sentence(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "--line", "nowhere") == "error: line must be the folder of a line, got nowhere\n"
    (tmp_path / "empty").mkdir()
    assert "params.yaml" in refused(capsys, "--line", "empty")
    assert refused(capsys, "--line", str(rows), "--batch", "x").endswith(f"line has scored ({BATCH}), got 'x'\n")
    (rows / "scores").rename(rows / "elsewhere")
    assert "has no scored batch to review yet: make score LINE=" in refused(capsys, "--line", str(rows))


def test_a_port_in_use_is_said_in_a_sentence(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = refused(capsys, "--line", str(rows), "--port", str(port))
    assert told.startswith(f"error: port {port} of 127.0.0.1 is in use; stop what uses it, or choose another")
    with pytest.raises(LineError, match="cannot listen on port 99999"):
        command.bound("127.0.0.1", 99999)
    with pytest.raises(LineError, match=r"cannot listen on port 0 of 203.0.113.1"):
        command.bound("203.0.113.1", 0)


def test_the_command_serves_the_newest_batch_until_it_is_interrupted(rows: Path) -> None:
    words = [sys.executable, "-m", "pipeline.review", "--line", str(rows), "--port", "0", "--host", "0.0.0.0"]
    environment = os.environ | {"ASSAY_REVIEW_TOKEN": "of-our-own-choice"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            said = [process.stdout.readline() for _ in range(3)]
            place = said[0].split()[-1]
            port = urlsplit(place).port
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30)
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert place.endswith(f":{port}/b/{BATCH}?token=of-our-own-choice")
    assert said[1].startswith("others can connect")
    assert out == "ended\n"
    assert err == ""
    assert process.returncode == 0


def test_only_this_machine_can_connect_unless_it_is_asked_for() -> None:
    assert is_loopback(command.HOST)
    with command.bound(command.HOST, 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
