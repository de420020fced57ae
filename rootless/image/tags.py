"""The tags of a repository, page by page (OCI distribution-spec, "Listing Tags")."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import httpx
import msgspec

from rootless.errors import ImageError, RegistryError
from rootless.image.connection import Connection

TAGS_MAX = 1_000_000
_PAGE = 1000
_PAGES_MAX = 10_000
_PAGE_MAX = 8 << 20
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_NEXT = re.compile(r"""<([^<>]{1,4096})>\s*;[^,]*\brel\s*=\s*(?:"next"|next\b)""")


class _Page(msgspec.Struct, frozen=True):
    tags: list[str] | None = None


async def list_tags(connection: Connection, limit: int | None = None) -> list[str]:
    """The tags of the connection's repository in the registry's order, at most `limit`.

    Raises RegistryError, ImageError for what is no list of tags.
    """
    wanted = min(limit or TAGS_MAX, TAGS_MAX)
    url = f"{connection.url}/tags/list?{urlencode({'n': min(wanted, _PAGE)})}"
    tags: dict[str, None] = {}
    for _ in range(_PAGES_MAX):
        async with connection.request("GET", url, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise await connection.refusal(response, f"the tags of {connection.reference.name}")
            raw = await connection.body(response, _PAGE_MAX, "a list of tags")
            link = response.headers.get("link", "")
        before = len(tags)
        tags.update(dict.fromkeys(_parse(raw, connection)))
        following = next_page(url, link)
        if len(tags) >= wanted or following is None:
            break
        if len(tags) == before:
            raise RegistryError(f"the registry {connection.registry} lists the same tags again and again")
        if not following.startswith(f"{connection.origin}/"):
            raise RegistryError(f"the registry {connection.registry} sends to {following[:200]!r} for more tags")
        url = following
    return list(tags)[:wanted]


def next_page(url: str, link: str) -> str | None:
    """The address of the next page in a Link header (RFC 8288), None after the last."""
    match = _NEXT.search(link)
    if match is None:
        return None
    try:
        return str(httpx.URL(url).join(match[1]))
    except httpx.InvalidURL:
        return match[1]


def _parse(raw: bytes, connection: Connection) -> list[str]:
    what = f"the tags of {connection.reference.name} from {connection.registry}"
    try:
        tags = msgspec.json.decode(raw, type=_Page).tags or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{what} are not a list of tags: {error}") from None
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise ImageError(f"{what} are malformed: {tag[:80]!r} is not a tag")
    return tags
