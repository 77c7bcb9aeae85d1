"""The tests' own browser notices what a page must not do."""

from typing import Any

from tests.browser import Watched


def test_errors_and_requests_that_leave_this_machine_are_noted(page: Any, watched: Watched) -> None:
    page.set_content("<h1>hi</h1><script>console.error('boo'); throw new Error('bah')</script>")
    page.set_content("<img src='http://example.org/x.png'>")
    page.wait_for_function("document.images[0].complete")
    assert watched.outside == ["http://example.org/x.png"]
    assert watched.errors[0] == "boo"
    assert "bah" in watched.errors[1]
    watched.errors.clear()
    watched.outside.clear()
