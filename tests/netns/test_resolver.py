"""What resolv.conf says, and which server is asked first."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from netns.resolver import Resolver, nameservers, search_domains

FIRST, SECOND = ("192.0.2.1", 53), ("192.0.2.2", 53)


def test_search_domains() -> None:
    assert search_domains("search a.example b.example\n") == ("a.example", "b.example")
    assert search_domains("search a.example\ndomain b.example c.example\n") == ("b.example",)
    assert search_domains("search\n") == ()
    assert search_domains("nameserver 192.0.2.1\n# search x\n") == ()
    assert len(search_domains("search " + "a " * 100)) == 32


def test_the_hosts_domains_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search one.example\n")
    resolver = Resolver(path=str(path))
    assert resolver.search() == ("one.example",)
    path.write_text("search two.example\nsearch three.example\n")
    resolver._looked = float("-inf")
    assert resolver.search() == ("three.example",)
    path.unlink()
    resolver._looked = float("-inf")
    assert resolver.search() == ("three.example",)
    assert Resolver(search=("own.example",), path=str(path)).search() == ("own.example",)


def test_that_the_domains_have_changed_is_told(tmp_path: Path) -> None:
    heard: list[tuple[str, ...]] = []
    path = tmp_path / "resolv.conf"
    path.write_text("search old.example\n")
    os.utime(path, (1, 1))

    def look(text: str | None = None) -> None:
        if text is not None:
            path.write_text(text)
        resolver._looked = float("-inf")
        resolver.servers()

    resolver = Resolver(path=str(path))
    resolver.on_search = heard.append
    look()
    look("search old.example\nnameserver 192.0.2.1\n")
    assert not heard
    look("search new.example\nnameserver 192.0.2.1\n")
    look("nameserver 192.0.2.1\n")
    assert heard == [("new.example",), ()]
    resolver = Resolver(path=str(path))  # the file was written after the container's, and before the first question
    resolver.on_search = heard.append
    resolver._made = 1.0
    look()
    look()
    assert heard == [("new.example",), (), ()]


def test_a_server_that_is_silent_twice_is_asked_last_until_it_answers() -> None:
    resolver = Resolver(("192.0.2.1", "192.0.2.2"))
    assert resolver.servers() == [FIRST, SECOND]
    resolver.silent(FIRST)
    assert resolver.servers() == [FIRST, SECOND]
    resolver.silent(FIRST)
    assert resolver.servers() == [SECOND, FIRST]
    resolver.silent(SECOND)
    resolver.silent(SECOND)
    assert resolver.servers() == [FIRST, SECOND]
    resolver.answered(SECOND)
    assert resolver.servers() == [SECOND, FIRST]


def test_what_is_remembered_of_servers_is_bounded() -> None:
    resolver = Resolver(("192.0.2.1",))
    for number in range(100):
        resolver.silent((f"192.0.2.{number}", 53))
    assert len(resolver._misses) <= 6


@given(st.text(alphabet="nameserver search domain\n\t#1.:%\0é", max_size=200) | st.text(max_size=100))
def test_any_file_is_read(text: str) -> None:
    assert len(nameservers(text)) <= 3
    assert len(search_domains(text)) <= 32
