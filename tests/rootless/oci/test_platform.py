"""Platforms and the choice among them (containerd's platforms/defaults and compare tests)."""

from __future__ import annotations

import pytest

from rootless.errors import UsageError
from rootless.oci.platform import Platform, choose, listing


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("armhf", "linux/arm"),
        ("linux/arm/v7", "linux/arm"),
        ("armel", "linux/arm/v6"),
        ("Linux/ARM/v5", "linux/arm/v5"),
        ("i686", "linux/386"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_normal_forms(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "/", "linux/", "a/b/c/d", "linux/am d64", "linux/amd64\n"])
def test_malformed(text: str) -> None:
    with pytest.raises(UsageError):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("wanted", "offers", "chosen"),
    [
        ("amd64", ["arm64", "amd64"], 1),
        ("amd64", ["windows/amd64", "linux/amd64"], 1),
        ("amd64", ["linux/amd64/v2", "linux/amd64/v3"], None),
        ("linux/amd64/v3", ["amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("arm", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], 1),
        ("arm", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("arm64", ["linux/arm64/v8", "linux/arm64"], 0),
        ("riscv64", ["amd64"], None),
        ("amd64", [], None),
    ],
)
def test_choice(wanted: str, offers: list[str], chosen: int | None) -> None:
    assert choose(Platform.parse(wanted), [None, *map(Platform.parse, offers)]) == (
        None if chosen is None else chosen + 1
    )


def test_listing() -> None:
    offers = [Platform.parse("amd64"), None, Platform.of("unknown", "unknown"), Platform.parse("amd64")]
    assert listing(offers) == "linux/amd64"
    assert listing([None]) == "none"
