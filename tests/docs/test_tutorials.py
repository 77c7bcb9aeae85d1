"""What `make tutorials` does reads pages as it says, and notices when they are wrong."""

from pathlib import Path

import pytest

from tests.docs.tutorials import PAGES, ROOT, Failed, Step, follow, missing, run, steps

PAGE = """# A page

```sh
echo one
echo two three
```

```text
one
two ...
```

```python title="a/b.py"
print("three")
```

```python
print("only read")
```

<!-- by hand -->
```sh
$EDITOR params.yaml
```

<!-- server -->
```sh
make review
```
"""


def test_a_page_is_read_as_steps_in_order() -> None:
    assert list(steps(PAGE)) == [
        Step("run", "echo one\necho two three\n", 3),
        Step("expect", "one\ntwo ...\n", 8),
        Step("write", 'print("three")\n', 13, "a/b.py"),
        Step("server", "make review\n", 27),
    ]


@pytest.mark.parametrize(
    ("expected", "said", "lacks"),
    [
        ("a\nb", "a\nb", None),
        ("b", "a\nb", None),  # what comes before the first line does not matter
        ("a\nb", "a\nx\nb", "b"),
        ("a\n...\nb", "a\nx\nb", None),
        ("a ... c", "a b c", None),
        ("... of 3", "2 of 3", None),
        ("a.c", "abc", "a.c"),
        ("b\n...\na", "a\nb", "a"),
    ],
)
def test_what_must_come_is_looked_for_in_order(expected: str, said: str, lacks: str | None) -> None:
    assert missing(expected, said) == lacks


def test_a_block_that_fails_ends_the_run_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="ended with 3:\nbefore"):
        run(Step("run", "echo before; (exit 3); echo after", 1), tmp_path, {"PATH": "/usr/bin:/bin"})


def test_a_page_that_says_something_else_is_named_with_its_line(tmp_path: Path) -> None:
    place = tmp_path / "copy"
    place.mkdir()
    (place / "page.md").write_text(
        '```sh title="x"\n```\n\n```sh\necho one\n```\n\n```text\ntwo\n```\n', encoding="utf-8"
    )
    with pytest.raises(Failed, match=r"page.md:8: this line did not come: two\nwhat came:\none"):
        follow("page.md", place)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_tutorial_is_run(page: str) -> None:
    found = list(steps((ROOT / page).read_text(encoding="utf-8")))
    assert sum(step.kind == "expect" for step in found) >= 3
    assert sum(step.kind == "write" for step in found) >= 2
