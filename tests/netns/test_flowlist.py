"""How flows are written."""

from __future__ import annotations

from netns.flowlist import endpoint


def test_endpoints() -> None:
    assert endpoint(b"\x0a\0\2\x64", 80) == "10.0.2.100:80"
    assert endpoint(bytes(15) + b"\1", 443) == "[::1]:443"
