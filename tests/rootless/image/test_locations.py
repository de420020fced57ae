"""Where a name's image is asked for."""

from __future__ import annotations

import pytest

from rootless.errors import ImageError, UsageError
from rootless.image import registriesconf
from rootless.image.locations import Location, Locations, matched
from rootless.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64


def load(text: str) -> Locations:
    return Locations(registriesconf.parse(text.encode(), "/etc/x.conf"))


def places(locations: Locations, text: str) -> list[str]:
    return [
        ("mirror " if location.is_mirror else "") + str(location.reference) + (" insecure" if location.insecure else "")
        for location in locations.of(Reference.parse(text))
    ]


@pytest.mark.parametrize(
    ("text", "prefix", "covered"),
    [
        ("a.example/b:1", "a.example", 9),
        ("a.example:5000/b:1", "a.example", 9),  # as containers/image has it
        ("a.example/b:1", "a.example/b", 11),
        ("a.example/b:1", "a.example/b:1", 13),
        (f"a.example/b@{DIGEST}", "a.example/b", 11),
        ("a.example/bc:1", "a.example/b", None),
        ("a.example.org/b:1", "a.example", None),
        ("x.a.example/b:1", "*.a.example", 11),
        ("y.x.a.example:5000/b:1", "*.a.example", 13),
        ("a.example/b:1", "*.a.example", None),
        ("x.a.example.org/b:1", "*.a.example", None),
        ("b.example/x.a.example:1", "*.a.example", None),
    ],
)
def test_prefixes(text: str, prefix: str, covered: int | None) -> None:
    assert matched(text, prefix) == covered


def test_nothing_configured() -> None:
    reference = Reference.parse("quay.io/a/b:1")
    assert Locations().of(reference) == (Location(reference),)
    assert Locations().push_location(reference) == Location(reference)
    assert Locations().credential_helpers == ()


MIRRORED = """
credential-helpers = ["containers-auth.json", "pass"]
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "cache.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "pinned.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "fresh.example"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "docker.io/library/special"
location = "moved.example/there"

[[registry]]
prefix = "*.corp.example"
insecure = true

[[registry]]
prefix = "*.old.example"
location = "new.example/old"

[[registry]]
location = "bad.example"
blocked = true
"""


def test_mirrors_in_order() -> None:
    locations = load(MIRRORED)
    assert places(locations, "busybox:1") == [
        "mirror cache.example:5000/hub/library/busybox:1 insecure",
        "mirror fresh.example/library/busybox:1",
        "docker.io/library/busybox:1",
    ]
    assert places(locations, f"busybox@{DIGEST}") == [
        f"mirror cache.example:5000/hub/library/busybox@{DIGEST} insecure",
        f"mirror pinned.example/library/busybox@{DIGEST}",
        f"docker.io/library/busybox@{DIGEST}",
    ]
    assert locations.credential_helpers == ("containers-auth.json", "pass")


def test_only_the_longest_prefix_counts() -> None:
    locations = load(MIRRORED)
    assert places(locations, "special:1") == ["moved.example/there:1"]
    assert places(locations, "docker.io/library/special/deeper") == ["moved.example/there/deeper:latest"]
    assert places(locations, "special2:1")[-1] == "docker.io/library/special2:1"


def test_wildcards() -> None:
    locations = load(MIRRORED)
    assert places(locations, "a.b.corp.example/x") == ["a.b.corp.example/x:latest insecure"]
    assert places(locations, "corp.example/x") == ["corp.example/x:latest"]
    assert places(locations, "a.old.example/x") == ["new.example/old/x:latest"]


def test_blocked_and_pushed() -> None:
    locations = load(MIRRORED)
    for ask in (locations.of, locations.push_location):
        with pytest.raises(ImageError, match=r"bad\.example is blocked in /etc/x\.conf"):
            ask(Reference.parse("bad.example/x"))
    assert str(locations.push_location(Reference.parse("special:1")).reference) == "docker.io/library/special:1"
    assert locations.push_location(Reference.parse("a.corp.example/x")).insecure


def test_a_rewriting_that_makes_no_name() -> None:
    locations = load("[[registry]]\nprefix = 'a.example/b'\nlocation = 'c.example'\n")
    with pytest.raises(UsageError, match=r"/etc/x\.conf sends a\.example/b:1"):
        locations.of(Reference.parse("a.example/b:1"))
