"""The flags of commands that talk to registries."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .session import Session

if TYPE_CHECKING:
    from ..image.access import Access

REGISTRY_FLAGS = (
    click.option("--authfile", metavar="FILE", help="Look for credentials in FILE only."),
    click.option("--creds", metavar="USER:PASSWORD", help="Log in with these, in place of what your files say."),
    click.option("--cert-dir", metavar="FOLDER", help="Take the certificates (*.crt, *.cert, *.key) in FOLDER."),
    click.option(
        "--tls-verify", metavar="BOOL", type=bool, default=None, help="false: accept any certificate, and plain HTTP."
    ),
    click.option("--retry", metavar="N", type=click.IntRange(0, 1000), help="Try again up to N times [default: 4]."),
    click.option("--retry-delay", metavar="TIME", help="Wait so long before, such as 2s [default: longer each time]."),
)
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h|)")
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def registry_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags; their values arrive as keyword arguments, to be given to `access`."""
    for flag in reversed(REGISTRY_FLAGS):
        command = flag(command)
    return command


def access(
    session: Session,
    /,
    *,
    authfile: str | None = None,
    creds: str | None = None,
    cert_dir: str | None = None,
    tls_verify: bool | None = None,
    retry: int | None = None,
    retry_delay: str | None = None,
) -> Access:
    """What the flags and the session's environment say. Raises UsageError with the first that is wrong."""
    from ..image.access import Access
    from ..image.auth import Credentials

    credentials = None
    if creds is not None:
        user, colon, password = creds.partition(":")
        if not colon or not user:
            raise UsageError("--creds is not USER:PASSWORD")
        credentials = Credentials(username=user, password=password, origin="--creds")
    return Access(
        tls_verify=tls_verify,
        credentials=credentials,
        authfile=_path(session, authfile),
        cert_dir=_path(session, cert_dir),
        retries=retry,
        retry_delay=_seconds(retry_delay),
        environ=dict(session.environment),
    )


def access_of(session: Session, flags: Mapping[str, Any]) -> Access:
    """The same out of all flags of a command."""
    names = ("authfile", "creds", "cert_dir", "tls_verify", "retry", "retry_delay")
    return access(session, **{name: flags[name] for name in names})


def without_password(words: Sequence[str]) -> list[str]:
    """A command line that may be kept: the passwords of --creds are replaced."""
    kept = []
    for position, word in enumerate(words):
        before = words[position - 1] if position else ""
        name, equals, value = word.partition("=")
        if before == "--creds":
            word = f"{word.partition(':')[0]}:…"
        elif name == "--creds" and equals:
            word = f"{name}={value.partition(':')[0]}:…"
        kept.append(word)
    return kept


def _path(session: Session, text: str | None) -> str | None:
    return os.path.join(session.cwd, text) if text else None


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"--retry-delay {text[:40]!r} is not a time such as 500ms, 2s or 1m")
    return float(match[1]) * _SECONDS[match[2]]
