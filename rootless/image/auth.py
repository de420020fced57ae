"""Registry credentials: where users keep them, and the bearer-token dance.

Files: $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json, ~/.config/containers/auth.json,
~/.docker/config.json, the first that has an entry wins (containers-auth.json(5)). Tokens: distribution
`spec/auth/token.md` and `oauth.md`; challenges: RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import trio

from rootless.errors import UsageError
from rootless.oci.reference import Reference

_FILE_MAX = 1 << 20
_LEGACY_DOCKER_KEY = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user may show to one registry: a name and a password, or an identity token."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    origin: str = ""
    """Where they were found, for messages."""

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def __repr__(self) -> str:
        return f"<Credentials {self.username or 'token'} from {self.origin}>"


class _Auth(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _AuthFile(msgspec.Struct, frozen=True):
    auths: dict[str, _Auth] | None = None
    cred_helpers: dict[str, str] | None = msgspec.field(default=None, name="credHelpers")
    creds_store: str = msgspec.field(default="", name="credsStore")


def auth_files(environ: Mapping[str, str]) -> list[str]:
    """The credential files of this user, in order of precedence. $REGISTRY_AUTH_FILE stands alone."""
    if explicit := environ.get("REGISTRY_AUTH_FILE"):
        return [explicit]
    home = environ.get("HOME", "")
    files = []
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        files.append(os.path.join(runtime, "containers/auth.json"))
    if config := environ.get("XDG_CONFIG_HOME") or (home and os.path.join(home, ".config")):
        files.append(os.path.join(config, "containers/auth.json"))
    if docker := environ.get("DOCKER_CONFIG") or (home and os.path.join(home, ".docker")):
        files.append(os.path.join(docker, "config.json"))
    return files


async def find_credentials(reference: Reference, environ: Mapping[str, str]) -> Credentials | None:
    """The credentials for `reference`, the most specific entry first. Raises UsageError for a malformed file."""
    for path in auth_files(environ):
        content = _read(path)
        if content is None:
            continue
        auths = {_plain_key(key): value for key, value in (content.auths or {}).items()}
        for key in _keys(reference):
            helper = (content.cred_helpers or {}).get(key) or (content.creds_store if key == reference.registry else "")
            if helper:
                found = await _ask_helper(helper, reference, path)
                if found is not None:
                    return found
            if (entry := auths.get(key)) is not None:
                found = _credentials(entry, key, path)
                if found is not None:
                    return found
    return None


def _read(path: str) -> _AuthFile | None:
    try:
        with open(path, "rb") as file:
            raw = file.read(_FILE_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read the credential file {path}: {error.strerror}") from error
    if not raw.strip():
        return None
    try:
        return msgspec.json.decode(raw, type=_AuthFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the credential file {path} is malformed: {error}") from None


def _keys(reference: Reference) -> Iterator[str]:
    """`registry/a/b`, `registry/a`, `registry` (containers-auth.json(5))."""
    parts = reference.name.split("/")
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _plain_key(key: str) -> str:
    """Docker writes `https://host/v1/`."""
    if key == _LEGACY_DOCKER_KEY:
        return "docker.io"
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            return key[len(scheme) :].split("/", 1)[0]
    return "docker.io" if key in ("index.docker.io", "registry-1.docker.io") else key.rstrip("/")


def _credentials(entry: _Auth, key: str, path: str) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, ValueError):
            raise UsageError(f"the credential file {path} is malformed: the entry {key} is not base64") from None
        username, _, password = decoded.rstrip("\0").partition(":")
    if not username and not entry.identitytoken:
        return None
    return Credentials(username, password, entry.identitytoken, path)


async def _ask_helper(helper: str, reference: Reference, path: str) -> Credentials | None:
    """docker-credential-helpers: the registry on stdin, JSON on stdout."""
    if not _HELPER_NAME.fullmatch(helper):
        raise UsageError(f"the credential file {path} names a malformed helper: {helper[:60]!r}")
    program = f"docker-credential-{helper}"
    server = _LEGACY_DOCKER_KEY if reference.registry == "docker.io" else reference.registry
    try:
        with trio.fail_after(30):
            result = await trio.run_process(
                [program, "get"], stdin=server.encode(), capture_stdout=True, stderr=subprocess.DEVNULL, check=False
            )
    except FileNotFoundError:
        raise UsageError(f"{path} names the credential helper {program}, which is not installed") from None
    except trio.TooSlowError:
        raise UsageError(f"the credential helper {program} did not answer within 30 seconds") from None
    if result.returncode != 0:
        return None  # helpers exit with 1 where they have nothing for this registry
    try:
        answer = msgspec.json.decode(result.stdout, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UsageError(f"the credential helper {program} gave a malformed answer") from None
    username, secret = answer.get("Username", ""), answer.get("Secret", "")
    if username == _TOKEN_USER:
        return Credentials(identity_token=secret, origin=program)
    return Credentials(username, secret, origin=program) if username else None


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme of a WWW-Authenticate header: `basic` or `bearer`, lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """What the WWW-Authenticate headers of a 401 ask for; unknown schemes are left out."""
    challenges = []
    for header in headers:
        for part in re.split(r",\s*(?=(?:Bearer|Basic)\b)", header[:8192], flags=re.IGNORECASE):
            scheme, _, rest = part.strip().partition(" ")
            if scheme.lower() not in ("basic", "bearer"):
                continue
            parameters = {
                match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
                for match in _PARAMETER.finditer(rest)
            }
            challenges.append(Challenge(scheme.lower(), parameters))
    return challenges
