"""Look at a batch's alarms and review band in a browser, and decide. `make review`

python -m pipeline.review --line examples/magnetic_tile
python -m pipeline.review --batch 0123456789ab-v3 --who Anna --open
"""

import argparse
import errno
import os
import socket
import sys
from pathlib import Path

from pipeline.ending import LOG, one_sentence
from pipeline.errors import DataError, LineError
from pipeline.review.batches import Line
from pipeline.review.guard import TOKEN, Guard, is_loopback, token_for
from pipeline.review.pages import address

HOST, PORT = "127.0.0.1", 4300


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any that is free. Raises LineError when the port is in use, or not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            why = (
                f"port {port} of {host} is in use; stop what uses it, or choose another: --port (make review PORT=...)"
            )
        else:
            why = f"the review page cannot listen on port {port} of {host}: {error}"
        raise LineError(why) from error
    return listening


def main(*words: str) -> None:
    parser = argparse.ArgumentParser(prog="make review", description="look at a batch's alarms and decide")
    parser.add_argument("--line", default=".", help="the line's folder")
    parser.add_argument("--batch", help="a folder's name below scores/ (default: the newest)")
    parser.add_argument("--host", default=HOST, help=f"the address to listen on (default {HOST}: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 for any that is free")
    parser.add_argument("--name", action="append", default=[], help="a further name that browsers reach the page under")
    parser.add_argument("--who", help="the name of who votes, where the browser does not know it yet")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    chosen = parser.parse_args(words)
    folder = Path(chosen.line)
    with one_sentence(folder.resolve() / LOG if folder.is_dir() else LOG):
        serve(folder, chosen.batch, chosen.host, chosen.port, tuple(chosen.name), chosen.who, chosen.open)


def serve(
    folder: Path, batch: str | None, host: str, port: int, names: tuple[str, ...], who: str | None, show: bool
) -> None:
    """Serve the page until Ctrl-C. Raises an AssayError for a line, a batch or a port that is not to be had."""
    if not folder.is_dir():
        raise LineError(f"line must be the folder of a line, got {folder}")
    line = Line(folder)
    found = line.names()
    if not found:
        raise DataError(f"{folder} has no scored batch to review yet: make score LINE={folder}")
    if batch is not None and batch not in found:
        near = ", ".join(found[:5])
        raise DataError(f"batch must be one that the line has scored ({near}), got {batch!r}")
    token = token_for(host, os.environ.get(TOKEN))
    with bound(host, port) as listening:
        port = listening.getsockname()[1]
        import uvicorn

        from pipeline.review import app

        guarded = Guard(app.make(line, who), host, token, f"assay_review_{port}", names)
        place = f"http://{_shown(host)}:{port}{address(batch or line.newest())}"
        place += f"?token={token}" if token else ""
        print(f"review  {place}", flush=True)
        if not is_loopback(host):
            print("others can connect: the address above holds the token, and nothing is encrypted", flush=True)
        print("Ctrl-C ends it; every vote is on disk at once", flush=True)
        if show:
            import webbrowser

            webbrowser.open(place)
        quiet = {"log_level": "warning", "access_log": False, "server_header": False}
        options = uvicorn.Config(guarded, ws="none", lifespan="off", timeout_graceful_shutdown=3, **quiet)
        try:
            uvicorn.Server(options).run([listening])
        except KeyboardInterrupt:  # it has ended its requests
            print("ended", flush=True)


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main(*sys.argv[1:])
