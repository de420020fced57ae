"""The flags of commands that talk to registries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import pytest

from rootless.cli.registryflags import REGISTRY_FLAGS, access, access_of, without_password
from rootless.cli.session import Session
from rootless.errors import UsageError
from rootless.image.access import Access


@dataclasses.dataclass
class _Session:
    cwd: str = "/home/me"
    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"HOME": "/home/me"})


SESSION = cast(Session, _Session())


def made(**flags: Any) -> Access:
    return access(SESSION, **flags)


def test_nothing_given() -> None:
    assert made() == Access(environ={"HOME": "/home/me"})


def test_what_is_given() -> None:
    got = made(authfile="a.json", cert_dir="/certs", creds="me:a:b", tls_verify=False, retry=0, retry_delay="500ms")
    assert (got.authfile, got.cert_dir, got.tls_verify) == ("/home/me/a.json", "/certs", False)
    assert (got.retries, got.retry_delay) == (0, 0.5)
    assert got.credentials is not None
    assert (got.credentials.username, got.credentials.password) == ("me", "a:b")
    assert "a:b" not in repr(got)


def test_out_of_all_flags_of_a_command() -> None:
    flags = dict.fromkeys(("authfile", "creds", "cert_dir", "tls_verify", "retry", "retry_delay", "name"))
    assert access_of(SESSION, flags) == made()


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2.0), ("2", 2.0), ("1.5m", 90.0), ("1h", 3600.0)])
def test_times(text: str, seconds: float) -> None:
    assert made(retry_delay=text).retry_delay == seconds


@pytest.mark.parametrize(
    "flags", [{"creds": "me"}, {"creds": ":secret"}, {"retry_delay": "soon"}, {"retry_delay": "-1s"}]
)
def test_what_is_wrong(flags: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        made(**flags)
    assert "secret" not in str(caught.value)


def test_there_is_a_flag_for_each_keyword() -> None:
    assert len(REGISTRY_FLAGS) == 6


def test_command_lines_that_are_kept_have_no_password() -> None:
    words = ("rcontain", "run", "--creds", "me:secret", "--creds=me:secret:2", "x", "--credits", "a:b")
    kept = without_password(words)
    assert kept == ["rcontain", "run", "--creds", "me:…", "--creds=me:…", "x", "--credits", "a:b"]
