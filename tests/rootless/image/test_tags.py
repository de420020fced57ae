"""Listing a repository's tags."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rootless.errors import ImageError, RegistryError
from rootless.image.access import Access
from rootless.image.connection import Connection
from rootless.image.faults import NotThere
from rootless.image.tags import list_tags, next_page
from rootless.oci.reference import Reference
from tests.kit.registry import Answer, FakeRegistry, Request, fake_registry

ACCESS = Access(environ={"HOME": "/nonexistent"})


async def tags(fake: FakeRegistry, limit: int | None = None) -> list[str]:
    async with Connection(Reference.parse(f"{fake.address}/a/b"), ACCESS) as connection:
        return await list_tags(connection, limit)


def page(names: object, link: str = "") -> Answer:
    return Answer(200, json.dumps({"name": "a/b", "tags": names}).encode(), {"Link": link} if link else {})


def pages(*answers: Answer) -> Callable[[Request], Answer | None]:
    left = list(answers)
    return lambda request: left.pop(0) if "/tags/list" in request.path else None


async def test_pages_are_followed_to_the_last(tmp_path: Path) -> None:
    with fake_registry(str(tmp_path)) as fake:
        fake.rules.append(
            pages(
                page(["1", "2"], '</v2/a/b/tags/list?n=2&last=2>; rel="next"'),
                page(["3", "4"], f"<http://{fake.address}/v2/a/b/tags/list?n=2&last=4>; title=x; rel=next"),
                page(["4", "5"]),
            )
        )
        assert await tags(fake) == ["1", "2", "3", "4", "5"]
        asked = [request.path for request in fake.requests if "tags" in request.path]
        assert asked[1:] == ["/v2/a/b/tags/list?n=2&last=2", "/v2/a/b/tags/list?n=2&last=4"]


async def test_a_limit_ends_the_questions(tmp_path: Path) -> None:
    with fake_registry(str(tmp_path)) as fake:
        fake.rules.append(pages(page(["1", "2"], '<?last=2>; rel="next"'), page(["3", "4"], '<?last=4>; rel="next"')))
        assert await tags(fake, 3) == ["1", "2", "3"]
        assert sum("tags" in request.path for request in fake.requests) == 2


async def test_no_tags(tmp_path: Path) -> None:
    with fake_registry(str(tmp_path), pages(page(None), page([]), Answer(404))) as fake:
        assert await tags(fake) == []
        assert await tags(fake) == []
        with pytest.raises(NotThere):
            await tags(fake)


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (page(["a"], '<https://elsewhere.example/v2/>; rel="next"'), RegistryError, "sends to 'https://elsewhere"),
        (page(["a", "\x1b[31m"]), ImageError, "is not a tag"),
        (page(["a", 1]), ImageError, "not a list of tags"),
        (Answer(200, b"<html>"), ImageError, "not a list of tags"),
        (Answer(200, b"[" * 100_000), ImageError, "not a list of tags"),
        (Answer(200, b" " * (9 << 20)), ImageError, "larger than"),
        (Answer(403), RegistryError, "forbids"),
    ],
)
async def test_answers_that_are_wrong(tmp_path: Path, answer: Answer, error: type[Exception], said: str) -> None:
    with fake_registry(str(tmp_path), pages(answer)) as fake:
        with pytest.raises(error, match=said):
            await tags(fake)


async def test_pages_without_an_end(tmp_path: Path) -> None:
    def same(request: Request) -> Answer | None:
        return page(["a"], f'<{request.path}>; rel="next"') if "/tags/" in request.path else None

    with fake_registry(str(tmp_path), same) as fake:
        with pytest.raises(RegistryError, match="again and again"):
            await tags(fake)


def test_links() -> None:
    url = "https://r.example/v2/a/tags/list?n=2"
    assert next_page(url, '</v2/a/tags/list?last=b>; rel="next"') == "https://r.example/v2/a/tags/list?last=b"
    assert next_page(url, "<b>; rel=prev, <c>; rel=next") == "https://r.example/v2/a/tags/c"
    assert next_page(url, '<b>; rel="nextish"') is None
    assert next_page(url, "") is None
