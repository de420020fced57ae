"""Which names an address has, for how long, and that there are never too many."""

from __future__ import annotations

from netns.names import Names


def test_the_last_name_that_was_heard_is_the_first() -> None:
    names = Names()
    names.hear("Deb.Debian.ORG.", [b"aaaa", b"bbbb"], 60, 0.0)
    names.hear("static.debian.org", [b"aaaa"], 60, 1.0)
    assert names.of(b"aaaa", 2.0) == ["static.debian.org", "deb.debian.org"]
    names.hear("deb.debian.org", [b"aaaa"], 60, 2.0)
    assert names.of(b"aaaa", 2.0) == ["deb.debian.org", "static.debian.org"]
    assert names.of(b"bbbb", 2.0) == ["deb.debian.org"]
    assert names.of(b"cccc", 2.0) == []


def test_names_expire_after_their_time_but_not_at_once() -> None:
    names = Names()
    names.hear("short", [b"aaaa"], 0, 0.0)
    names.hear("long", [b"aaaa"], 7200, 0.0)
    names.hear("forever", [b"bbbb"], 1e12, 0.0)
    assert names.of(b"aaaa", 3599.0) == ["long", "short"]
    assert names.of(b"aaaa", 3601.0) == ["long"]
    assert names.of(b"aaaa", 7201.0) == []
    assert names.of(b"bbbb", 86401.0) == []
    assert len(names) == 0


def test_there_are_never_too_many() -> None:
    names = Names(limit=10)
    for number in range(100):
        names.hear("many.example", [number.to_bytes(4, "big")], 60, 0.0)
        names.hear(f"{number}.example", [(99).to_bytes(4, "big")], 60, 0.0)
    assert len(names) == 10
    assert len(names.of((99).to_bytes(4, "big"), 0.0)) == 16
    assert names.of((99).to_bytes(4, "big"), 0.0)[0] == "99.example"
    assert names.of((1).to_bytes(4, "big"), 0.0) == []


def test_names_that_are_fixed_stay() -> None:
    names = Names()
    names.fix("Host.containers.internal", b"aaaa")
    assert names.of(b"aaaa", 1e9) == ["host.containers.internal"]
    names.hear("other", [b"aaaa"], 60, 0.0)
    assert names.of(b"aaaa", 1.0) == ["host.containers.internal", "other"]
    assert names.of(b"aaaa", 1e9) == names.of(b"aaaa", 2e9) == ["host.containers.internal"]


def test_names_that_are_used_last() -> None:
    names = Names()
    names.hear("used", [b"aaaa"], 60, 0.0)
    names.keep(b"bbbb", 0.0)
    for now in (3000.0, 6000.0, 9000.0):
        assert names.of(b"aaaa", now) == ["used"]
        names.keep(b"aaaa", now)
    assert names.of(b"aaaa", 9000.0 + 3601.0) == []
