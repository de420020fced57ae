"""-p: every form of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cli.ports import parse_published
from rootless.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("", 0, 80, "tcp")]),
        ("8080:80", [("", 8080, 80, "tcp")]),
        ("8080:80/udp", [("", 8080, 80, "udp")]),
        ("127.0.0.1:8080:80", [("127.0.0.1", 8080, 80, "tcp")]),
        ("127.0.0.1::80", [("127.0.0.1", 0, 80, "tcp")]),
        ("[::1]:8080:80/tcp", [("::1", 8080, 80, "tcp")]),
        ("[::1]::53/udp", [("::1", 0, 53, "udp")]),
        ("8000-8001:80-81", [("", 8000, 80, "tcp"), ("", 8001, 81, "tcp")]),
        ("80-81", [("", 0, 80, "tcp"), ("", 0, 81, "tcp")]),
        ("65535:65535", [("", 65535, 65535, "tcp")]),
    ],
)
def test_forms(text: str, expected: list[tuple[str, int, int, str]]) -> None:
    found = parse_published(text)
    assert [(each.host_ip, each.host_port, each.container_port, each.protocol) for each in found] == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [("unix:/run/x:80", "/run/x"), ("unix:x:80/tcp", "x"), ("unix:/a:b/c d:80", "/a:b/c d")],
)
def test_sockets(text: str, path: str) -> None:
    (found,) = parse_published(text)
    assert (found.path, found.host_port, found.container_port, found.protocol) == (path, 0, 80, "tcp")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a",
        "0:80",
        "+80",
        "8_0:80",
        " 80",
        "80:",
        "80:a",
        "a:80",
        "65536:80",
        "80:65536",
        "80:0",
        "-1:80",
        "80/",
        "80/sctp",
        "1.2.3:80:80",
        "::1:80:80",
        "[::1]80:80",
        "[::1:80:80",
        "8000-8002:80-81",
        "81-80",
        "80-",
        "1:2:3:4",
        "80/tcp/udp",
        "host:80:80",
        "８０:80",
        "unix::80",
        "unix:80",
        "unix:/run/x",
        "unix:/run/x:",
        "unix:/run/:80",
        "unix:/run/x:0",
        "unix:/run/x:80-81",
        "unix:/run/x:80/udp",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(UsageError):
        parse_published(text)


@given(st.text(alphabet="0123456789:-/.[]tcpudnix ", max_size=24))
def test_anything_is_parsed_or_refused(text: str) -> None:
    try:
        found = parse_published(text)
    except UsageError:
        return
    assert all(0 <= each.host_port <= 65535 and 1 <= each.container_port <= 65535 for each in found)
