"""`rcontain login`.

The password comes from the terminal, without an echo, or from standard input: never from the command line, which other
users of the machine can read.
"""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import click
import trio

from ..errors import UsageError
from ..image.access import Access
from ..image.auth import Credentials, find_for, keep
from ..image.connection import Connection
from ..image.faults import Unauthorized
from ..image.locations import Locations
from ..oci.reference import Reference, has_registry
from .command import Command
from .registryflags import access
from .session import Session, pass_session

_LINE_MAX = 64 << 10


@click.command(
    "login",
    cls=Command,
    examples=[
        ("rcontain login quay.io", "Ask for the user name and the password"),
        ("rcontain login -u me --password-stdin quay.io <password", "In a script"),
        ("rcontain login --get-login quay.io", "Who is logged in there"),
        ("rcontain login registry.example.org/team", "For the repositories below `team` only"),
    ],
)
@click.option("-u", "--username", metavar="USER", help="The user name.")
@click.option("-p", "--password", metavar="PASSWORD", help="Refused: others can see it. Use --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input; needs --username.")
@click.option("--get-login", is_flag=True, help="Only print who is logged in.")
@click.option(
    "--authfile",
    metavar="FILE",
    help="Keep the credentials in FILE [default: $REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json].",
)
@click.option(
    "--compat-auth-file", metavar="FILE", help="Keep them in FILE as Docker does, such as ~/.docker/config.json."
)
@click.option("--cert-dir", metavar="FOLDER", help="Take the certificates (*.crt, *.cert, *.key) in FOLDER.")
@click.option(
    "--tls-verify", metavar="BOOL", type=bool, default=None, help="false: accept any certificate, and plain HTTP."
)
@click.option("-v", "--verbose", is_flag=True, help="Say where the credentials are kept.")
@click.argument("registry", metavar="[REGISTRY]", required=False)
@pass_session
def login(
    session: Session,
    username: str | None,
    password: str | None,
    password_stdin: bool,
    get_login: bool,
    authfile: str | None,
    compat_auth_file: str | None,
    cert_dir: str | None,
    tls_verify: bool | None,
    verbose: bool,
    registry: str | None,
) -> None:
    """Check a user name and a password at a registry, and keep them.

    REGISTRY is a host, or a host and a path below which the credentials count. Without it, the first registry is meant
    that registries.conf searches for short names.
    """
    if password is not None:
        raise UsageError(
            "a password on the command line can be read by everybody on this machine", hint="use --password-stdin"
        )
    if password_stdin and not username:
        raise UsageError("--password-stdin needs --username")
    if authfile and compat_auth_file:
        raise UsageError("give either --authfile or --compat-auth-file")
    way = access(session, authfile=authfile or compat_auth_file, cert_dir=cert_dir, tls_verify=tls_verify)
    key = registry_key(registry, way, whole=compat_auth_file is not None)
    if get_login:
        found = session.run(find_for, key, way.environ, way.authfile)
        if found is None or not found.username:
            raise UsageError(f"not logged into {key}")
        click.echo(found.username)
        return
    place = session.run(_login, session, key, way, username, password_stdin)
    if verbose and place:
        click.echo(f"Used: {place}")


async def _login(session: Session, key: str, way: Access, username: str | None, from_stdin: bool) -> str | None:
    earlier = await find_for(key, way.environ, way.authfile)
    if earlier is not None and earlier.identity_token and not username:
        raise UsageError(
            f"{earlier.origin} has an identity token for {key}", hint=f"take it away with `rcontain logout {key}`"
        )
    if username is None and earlier is not None and earlier.username:
        click.echo(f"Authenticating with existing credentials for {key}")
        if await _is_accepted(key, way, earlier):
            click.echo(f"Existing credentials are valid. Already logged in to {key}")
            return None
        click.echo("Existing credentials are invalid, please enter valid username and password")
    if from_stdin:
        user, secret = username or "", (await _read_all()).replace("\r", "").replace("\n", "")
    else:
        user, secret = await _ask(session, username, earlier.username if earlier is not None else "")
    if not user or not secret:
        raise UsageError(f"cannot log in to {key}: the {'password' if user else 'user name'} is empty")
    if ":" in user:
        raise UsageError("a user name cannot have a colon in it")  # RFC 7617
    credentials = Credentials(user, secret, origin="rcontain login")
    if not await _is_accepted(key, way, credentials):
        raise UsageError(f"logging into {key!r}: invalid username/password")
    place = await keep(key, credentials, way.environ, way.authfile)
    click.echo("Login Succeeded!")
    return place


async def _is_accepted(key: str, way: Access, credentials: Credentials) -> bool:
    host, _, path = key.partition("/")
    reference = Reference(host, path or "login")
    location = Locations.load(way.environ).push_location(reference)
    try:
        async with Connection(reference, way, location=location, credentials=credentials) as connection:
            await connection.check_login()
    except Unauthorized:
        return False
    return True


def registry_key(text: str | None, way: Access, *, whole: bool = False) -> str:
    """What credentials are kept under: `host[:port]`, or with a path. `whole`: only hosts. Raises UsageError."""
    if text is None:
        search = Locations.load(way.environ).search
        if not search:
            raise UsageError("which registry is missing", hint="name it, such as `rcontain login docker.io`")
        text = search[0]
    for scheme in ("https://", "http://"):
        if text.startswith(scheme):
            text = text.removeprefix(scheme).partition("/")[0]
    text = text.rstrip("/")
    host, slash, path = text.partition("/")
    # A single word can be a host here, which it cannot be in the name of an image.
    probe = host if has_registry(f"{host}/") else f"{host}:443"
    reference = Reference.parse(f"{probe}/{path or 'x'}")
    if slash and whole:
        raise UsageError(f"Docker keeps passwords of whole registries only, not of {text}")
    if "@" in path or ":" in path:
        raise UsageError(f"{text} has a tag or a digest", hint="name a registry or a repository")
    host = "docker.io" if reference.registry == "docker.io" else host
    return f"{host}/{path}" if slash else host


async def _ask(session: Session, username: str | None, earlier: str) -> tuple[str, str]:
    if not session.is_terminal(0):
        raise UsageError("there is no terminal to ask for a password at", hint="use --username USER --password-stdin")
    if username is None:
        _say(f"Username ({earlier}): " if earlier else "Username: ")
        username = (await _read_line()).strip() or earlier
    with _silent_terminal(0):
        _say("Password: ")
        secret = await _read_line()
    _say("\n")
    return username, secret.rstrip("\r\n")


@contextmanager
def _silent_terminal(fd: int) -> Iterator[None]:
    """Without an echo, whatever happens; the client restores it as well, should this process be killed."""
    saved = termios.tcgetattr(fd)
    silent = saved.copy()
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


async def _read_line() -> str:
    """One line of the terminal. Raises UsageError at its end."""
    raw = b""
    while not raw.endswith(b"\n"):
        chunk = await _read()
        if not chunk or len(raw) > _LINE_MAX:
            _say("\n")
            raise UsageError("the answer is missing")
        raw += chunk
    return raw.decode(errors="surrogateescape")


async def _read_all() -> str:
    raw = b""
    while chunk := await _read():
        raw += chunk
        if len(raw) > _LINE_MAX:
            raise UsageError(f"the password on standard input is longer than {_LINE_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise UsageError("the password on standard input is not UTF-8") from None


async def _read() -> bytes:
    try:
        await trio.lowlevel.wait_readable(0)
    except OSError:
        await trio.lowlevel.checkpoint()  # a regular file, which epoll(7) does not take, never blocks
    return os.read(0, 4096)
