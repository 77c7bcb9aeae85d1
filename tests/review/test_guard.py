"""Who may use the page."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ParamsError
from pipeline.review.guard import is_loopback, token_for
from tests.review.conftest import BATCH, Served

Serve = Callable[..., Served]


def ask(served: Served, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, dict, bytes]:
    """Status, headers and body of an answer, redirects as they are."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    named: dict[str, Any] = {name.replace("_", "-"): value for name, value in headers.items()}
    if body:
        named |= {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, path, body or None, named)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data


def test_a_page_elsewhere_can_neither_vote_nor_read(rows: Path, serve: Serve) -> None:
    served = serve(rows, who="Anna")
    key = ask(served, f"/b/{BATCH}/start")[1]["location"].rpartition("/")[2]
    vote = f"/b/{BATCH}/s/{key}/vote"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        status, _, _ = ask(served, vote, "POST", "vote=reject", Origin=origin)
        assert status == 403
    assert not (rows / "scores" / BATCH / "review/votes.jsonl").exists()
    assert ask(served, "/", Host="evil.example")[0] == 421  # its name was made to point here
    assert ask(served, "/", Host=f"localhost:{served.port}")[0] == 200
    assert ask(served, "/", Host="[::1]:1")[0] == 200
    own = ask(served, vote, "POST", "vote=reject", Origin=f"http://127.0.0.1:{served.port}")
    assert own[0] == 303
    assert (rows / "scores" / BATCH / "review/votes.jsonl").exists()


def test_headers_keep_a_browser_from_doing_more_than_it_must(rows: Path, serve: Serve) -> None:
    served = serve(rows, who="Anna")
    for path in ("/", f"/b/{BATCH}", "/assets/review.js", "/nowhere"):
        headers = ask(served, path)[1]
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
    status, _, page = ask(served, "/docs")
    assert status == 404
    assert b"That did not work" in page


def test_a_token_is_asked_for_and_kept(rows: Path, serve: Serve) -> None:
    token = "0123456789abcdef"
    served = serve(rows, who="Anna", token=token)
    for path in ("/", f"/b/{BATCH}", "/assets/review.css", "/?token=wrong", "/?token="):
        assert ask(served, path)[0] == 403
    assert ask(served, f"/b/{BATCH}/undo", "POST")[0] == 403
    status, headers, _ = ask(served, f"/b/{BATCH}?token={token}&sort=score")
    assert (status, headers["location"]) == (303, f"/b/{BATCH}?sort=score")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert ask(served, "/", Cookie=cookie.partition(";")[0])[0] == 200
    assert ask(served, f"//evil.example/?token={token}")[1]["location"] == "/evil.example/"


def test_the_address_decides_about_the_token() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "10.1.2.3", "plant")] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert token_for("127.0.0.1", None) is None
    assert len(token_for("0.0.0.0", None) or "") >= 32
    assert token_for("0.0.0.0", None) != token_for("0.0.0.0", None)
    assert token_for("127.0.0.1", "x" * 16) == "x" * 16
    with pytest.raises(
        ParamsError, match="ASSAY_REVIEW_TOKEN must have at least 16 letters or digits, got 5 characters"
    ):
        token_for("0.0.0.0", "short")


def test_names_and_forms_from_outside_do_no_harm(rows: Path, serve: Serve) -> None:
    served = serve(rows)
    status, headers, _ = ask(served, f"/b/{BATCH}?sort=score")
    assert (status, headers["location"]) == (303, f"/who?next=%2Fb%2F{BATCH}%3Fsort%3Dscore")
    status, headers, _ = ask(served, "/who", "POST", "who=+%3D+Zo%C3%AB+%0D%0A%3Cb%3E&next=//evil.example")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].partition(";")[0]
    page = ask(served, f"/b/{BATCH}", Cookie=cookie)[2].decode()
    assert "Zoë &lt;b&gt;" in page
    assert ask(served, "/who", "POST", "who=+++&next=/")[1]["location"] == "/who?next=%2F"
    assert ask(served, "/who", "POST", "who=" + "x" * 20_000)[0] == 413
    for path in ("/b/none", "/b/..%2f..", f"/b/{BATCH}/s/none", f"/b/{BATCH}/s/none/whole.png"):
        assert ask(served, path, Cookie=cookie)[0] == 404
    status, _, page = ask(served, f"/b/{BATCH}?page=99999&sort=x&state=y&decision=z", Cookie=cookie)
    assert status == 200
    assert json.loads(ask(served, f"/b/{BATCH}/now", Cookie=cookie)[2])["progress"]["total"] == 4
