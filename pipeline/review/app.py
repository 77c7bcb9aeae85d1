"""The web application of a line's reviews: pages made on the server, every action a plain form that works without
scripts; assets/review.js adds keys, zoom and the rest. FastAPI with Jinja2, see docs/review.md for why."""

import getpass
import hashlib
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, unquote

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from pipeline.errors import AssayError, DataError
from pipeline.review import pages
from pipeline.review.batches import Batch, Line
from pipeline.review.models import READY
from pipeline.review.pages import Asked, address
from pipeline.review.vote import REJECT

ASSETS = Path(__file__).with_name("assets")
WHO = "assay_review_who"
YEAR = 365 * 24 * 3600  # seconds
LARGEST = 16_384  # bytes of a form
KEPT = {"cache-control": "private, max-age=3600"}  # pictures
FRESH = {"cache-control": "no-store"}
EMPTY = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
Form = dict[str, str]


async def form(request: Request) -> Form:
    """The fields of a form, the last of each name. Raises HTTPException for one that is too large."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > LARGEST:
            raise HTTPException(413, f"a form must have at most {LARGEST} bytes")
    fields = parse_qs(data.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


Fields = Annotated[Form, Depends(form)]


class Site:
    """The pages over a line's batches. `who` is the name of those whose browser gives none, None to ask for it."""

    def __init__(self, line: Line, who: str | None) -> None:
        self._line, self._who = line, pages.plain(who or "")
        loader = PackageLoader("pipeline.review")
        self._pages = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        content = b"".join(path.read_bytes() for path in sorted(ASSETS.iterdir()))
        self._pages.globals["version"] = hashlib.sha256(content).hexdigest()[:8]

    def _page(self, name: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._pages.get_template(f"{name}.html.j2").render(values), status, FRESH)

    def message(self, sentence: str, status: int) -> HTMLResponse:
        """A page that says what is wrong."""
        return self._page("message", status, sentence=sentence)

    def _name(self, request: Request) -> str:
        return pages.plain(unquote(request.cookies.get(WHO, ""))) or self._who

    def _open(self, name: str) -> Batch:
        """The batch, with all votes so far."""
        batch = self._line.open(name)
        batch.refresh()
        return batch

    def _place(self, batch: Batch, key: str) -> int:
        """The position behind a key. Raises HTTPException for one that is none."""
        position = batch.queue.places.get(key)
        if position is None:
            raise HTTPException(404, f"batch {batch.name} has no such sample among its alarms and its review band")
        return position

    def batches(self, request: Request) -> Response:
        """The list of batches."""
        page = Asked.read(request.query_params).page
        return self._page("batches", **pages.batches(self._line, page), who=self._name(request))

    def ask_name(self, request: Request) -> Response:
        """The form that asks who is there."""
        named = self._name(request) or _user()
        return self._page("who", who=named, next=_inside(request.query_params.get("next", "/")))

    def take_name(self, fields: Fields) -> Response:
        """Keep a name in a cookie."""
        name = pages.plain(fields.get("who", ""))
        to = _inside(fields.get("next", "/"))
        if not name:
            return RedirectResponse(f"/who?next={quote(to, safe='')}", 303)
        answer = RedirectResponse(to, 303)
        answer.set_cookie(WHO, quote(name), max_age=YEAR, httponly=True, samesite="lax")
        return answer

    def grid(self, batch: str, request: Request) -> Response:
        """The samples of a batch, a page at a time."""
        if not (who := self._name(request)):
            return _ask(request)
        opened, asked = self._open(batch), Asked.read(request.query_params)
        shown = pages.grid(opened, asked, who)
        return self._page("grid", **pages.frame(opened, who, time.time()), **shown)

    def start(self, batch: str, request: Request) -> Response:
        """The first sample that nobody has decided on."""
        opened, asked = self._open(batch), Asked.read(request.query_params)
        who = self._name(request)
        found = opened.queue.select(asked.sort, opened.undecided(asked.decision, who, time.monotonic()))
        if not len(found):
            return RedirectResponse(address(batch, asked=asked), 303)
        return RedirectResponse(address(batch, "s", opened.queue.keys[int(found[0])], asked=asked), 303)

    def sample(self, batch: str, key: str, request: Request) -> Response:
        """One sample to decide on."""
        if not (who := self._name(request)):
            return _ask(request)
        opened, asked = self._open(batch), Asked.read(request.query_params)
        position = self._place(opened, key)
        shown = pages.sample(opened, position, asked, who)
        opened.shown(position, who, time.monotonic())
        return self._page("sample", **pages.frame(opened, who, time.time()), **shown)

    def vote(self, batch: str, key: str, request: Request, fields: Fields) -> Response:
        """Keep a vote and go to the next sample that nobody has decided on; to the grid behind the last one."""
        if not (who := self._name(request)):
            return _ask(request)
        opened, asked = self._open(batch), Asked.read(request.query_params)
        position = self._place(opened, key)
        vote = fields.get("vote", "")
        defect = pages.plain(fields.get("defect", "")) if vote == REJECT else ""
        opened.votes.vote(opened.queue.ids[position], vote, who, defect)
        opened.refresh()
        undecided = opened.undecided(asked.decision, who, time.monotonic())
        onward = opened.queue.after(asked.sort, position, undecided)
        if onward is None and undecided.any():  # those that were left out before
            onward = int(opened.queue.select(asked.sort, undecided)[0])
        if onward is None:
            return RedirectResponse(address(batch, asked=asked), 303)
        return RedirectResponse(address(batch, "s", opened.queue.keys[onward], asked=asked), 303)

    def undo(self, batch: str, request: Request) -> Response:
        """Take this person's last vote back and show its sample again."""
        if not (who := self._name(request)):
            return _ask(request)
        opened, asked = self._open(batch), Asked.read(request.query_params)
        id = opened.votes.undo(who)
        position = opened.queue.position.get(id) if id is not None else None
        if position is None:
            return RedirectResponse(address(batch, asked=asked), 303)
        return RedirectResponse(address(batch, "s", opened.queue.keys[position], asked=asked), 303)

    def now(self, batch: str, request: Request) -> Response:
        """What may have changed since a page was made: progress, the model, votes on one sample."""
        opened = self._open(batch)
        key = request.query_params.get("key", "")
        votes = opened.votes.standing(opened.queue.ids[self._place(opened, key)]) if key else {}
        return JSONResponse(
            {
                "progress": pages.progress(opened),
                "warning": opened.votes.warning,
                "model": {"state": opened.scorer.state, "why": opened.scorer.why},
                "votes": [
                    {"who": vote.who, "vote": vote.vote, "defect": vote.defect}
                    for vote in sorted(votes.values(), key=lambda vote: vote.time)
                ],
            },
            headers=FRESH,
        )

    def picture(self, batch: str, key: str, name: str) -> Response:
        """A thumbnail, a whole picture or a heat map; a drawing that says so where the sample is gone."""
        opened = self._line.open(batch)
        position = self._place(opened, key)
        makers = {"thumb.webp": opened.thumbnail, "whole.png": opened.picture, "heat.png": opened.heat}
        if name not in makers:
            raise HTTPException(404, "there is no such picture")
        try:
            if name == "heat.png" and opened.scorer.state != READY:
                raise DataError("there is no model to make heat maps with")
            data = makers[name](position)
        except DataError:
            data = EMPTY if name == "heat.png" else (ASSETS / "gone.svg").read_bytes()
            return Response(data, media_type="image/svg+xml", headers=FRESH)
        return Response(data, media_type=f"image/{name.rpartition('.')[2]}", headers=KEPT)


def _user() -> str:
    try:
        return pages.plain(getpass.getuser())
    except (OSError, KeyError, ImportError):
        return ""


def _inside(place: str) -> str:
    """A path on this server; `/` for anything else."""
    return place if place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable() else "/"


def _ask(request: Request) -> Response:
    """Ask for a name first, then go on where that was; a vote is given again."""
    place, query = request.url.path, request.url.query
    if request.method == "POST":
        place = place.rpartition("/")[0]
    back = place + (f"?{query}" if query else "")
    return RedirectResponse(f"/who?next={quote(back, safe='')}", 303)


def make(line: Line, who: str | None = None) -> FastAPI:
    """The application over a line's batches; guard.py goes around it."""
    site = Site(line, who)
    app = FastAPI(title="assay review", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/assets", StaticFiles(directory=ASSETS), "assets")
    sample = "/b/{batch}/s/{key}"
    for path, call, method in (
        ("/", site.batches, "GET"),
        ("/who", site.ask_name, "GET"),
        ("/who", site.take_name, "POST"),
        ("/b/{batch}", site.grid, "GET"),
        ("/b/{batch}/start", site.start, "GET"),
        ("/b/{batch}/now", site.now, "GET"),
        ("/b/{batch}/undo", site.undo, "POST"),
        (sample, site.sample, "GET"),
        (f"{sample}/vote", site.vote, "POST"),
        (f"{sample}/{{name}}", site.picture, "GET"),
    ):
        app.add_api_route(path, call, methods=[method], response_model=None)

    def said(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return site.message(str(error.detail), error.status_code)
        return site.message(str(error), 404 if "batch must be" in str(error) else 409)

    for kind in (HTTPException, AssayError):
        app.add_exception_handler(kind, said)
    return app
