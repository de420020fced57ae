"""Registry credentials: whose they are, where they are found and kept, and what registries ask for.

Files, the first that has an entry wins: `rootless.image.authfile`. `credential-helpers` of registries.conf may put
helper programs before or after them, or in their place. Challenges: RFC 9110 section 11.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rootless.errors import UsageError
from rootless.image import authfile as files
from rootless.image.authfile import LEGACY_DOCKER_KEY, Auth, auth_files, plain_key
from rootless.image.credentialhelpers import TOKEN_USER, Helper
from rootless.image.registriesconf import credential_helpers
from rootless.oci.reference import Reference

FILES = "containers-auth.json"
"""What stands for the files in `credential-helpers`."""
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user may show to one registry: a name and a password, or an identity token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    origin: str = ""
    """Where they were found, for messages."""

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def __repr__(self) -> str:
        return f"<Credentials {self.username or 'token'} from {self.origin}>"


async def find_credentials(
    reference: Reference, environ: Mapping[str, str], authfile: str | None = None
) -> Credentials | None:
    """The credentials for `reference`, the most specific entry first. Raises UsageError for a malformed file.

    `authfile` is what --authfile says: that file alone.
    """
    return await find_for(reference.name, environ, authfile)


async def find_for(name: str, environ: Mapping[str, str], authfile: str | None = None) -> Credentials | None:
    """The credentials for a registry, or a repository on it (`host[:port][/path]`)."""
    environ = {**environ, "REGISTRY_AUTH_FILE": authfile} if authfile else environ
    for helper in credential_helpers(environ) or (FILES,):
        if helper == FILES:
            found = await _in_files(name, environ)
        else:
            found = await _ask(Helper(helper, "registries.conf", environ), name.partition("/")[0])
        if found is not None:
            return found
    return None


async def _in_files(name: str, environ: Mapping[str, str]) -> Credentials | None:
    registry = name.partition("/")[0]
    for path in auth_files(environ):
        content = files.read(path)
        if content is None:
            continue
        auths = {plain_key(key): value for key, value in (content.auths or {}).items()}
        for key in _keys(name):
            helper = (content.cred_helpers or {}).get(key) or (content.creds_store if key == registry else "")
            if helper:
                found = await _ask(Helper(helper, path, environ), registry)
                if found is not None:
                    return found
            if (entry := auths.get(key)) is not None:
                found = _credentials(entry, key, path)
                if found is not None:
                    return found
    return None


def _keys(name: str) -> Iterator[str]:
    """`registry/a/b`, `registry/a`, `registry` (containers-auth.json(5))."""
    parts = name.split("/")
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _credentials(entry: Auth, key: str, path: str) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, ValueError):
            raise UsageError(f"the credential file {path} is malformed: the entry {key} is not base64") from None
        username, colon, password = decoded.rstrip("\0").partition(":")
        if not colon and not entry.identitytoken:
            return None  # as containers/image has it
    if not username and not entry.identitytoken:
        return None
    return Credentials(username, password, entry.identitytoken, path)


async def _ask(helper: Helper, registry: str) -> Credentials | None:
    found = await helper.get(registry)
    if found is None:
        return None
    username, secret = found
    if username == TOKEN_USER:
        return Credentials(identity_token=secret, origin=helper.program)
    return Credentials(username, secret, origin=helper.program)


async def keep(key: str, credentials: Credentials, environ: Mapping[str, str], authfile: str | None = None) -> str:
    """Keep a user's credentials for a registry, or a repository on it; returns where.

    That is the first of `credential-helpers`, by default the file of `auth_files`; a registry with a helper in that
    file, or the file's `credsStore`, has them there. Raises UsageError, HostError.
    """
    environ = {**environ, "REGISTRY_AUTH_FILE": authfile} if authfile else environ
    path, helper = _place(key, environ)
    if helper is None:
        files.put(path, _server(key, path), credentials.username, credentials.password)
        return path
    if "/" in key:
        raise UsageError(
            f"{helper.program} keeps passwords of whole registries only, not of {key}",
            hint="give --authfile another file",
        )
    await helper.store(_server(key, path), credentials.username, credentials.password)
    return helper.program


async def forget(key: str, environ: Mapping[str, str], authfile: str | None = None) -> bool:
    """Take away what `keep` keeps. Returns whether there was something. Raises UsageError, HostError."""
    environ = {**environ, "REGISTRY_AUTH_FILE": authfile} if authfile else environ
    path, helper = _place(key, environ)
    erased = await helper.erase(key) if helper is not None and "/" not in key else False
    return files.remove(path, key) or erased


async def forget_all(environ: Mapping[str, str], authfile: str | None = None) -> None:
    """Take away all entries of the file that `keep` writes, and all that helpers keep which it or registries.conf
    names. Raises UsageError, HostError."""
    environ = {**environ, "REGISTRY_AUTH_FILE": authfile} if authfile else environ
    for name in credential_helpers(environ):
        if name != FILES:
            helper = Helper(name, "registries.conf", environ)
            for server in await helper.list():
                await helper.erase(server)
    path = auth_files(environ)[0]
    content = files.read(path)
    for registry, name in ((content and content.cred_helpers) or {}).items():
        await Helper(name, path, environ).erase(registry)
    files.clear(path)


def _place(key: str, environ: Mapping[str, str]) -> tuple[str, Helper | None]:
    """The file that is written, and the helper in its place if there is one."""
    path = auth_files(environ)[0]
    content = files.read(path)
    registry = key.partition("/")[0]
    if content is not None and (name := (content.cred_helpers or {}).get(registry) or content.creds_store):
        return path, Helper(name, path, environ)
    first = next(iter(credential_helpers(environ)), FILES)
    return path, None if first == FILES else Helper(first, "registries.conf", environ)


def _server(registry: str, path: str) -> str:
    """What a registry is called in a file or by its helper: Docker, in its own file, has an address for its hub."""
    return LEGACY_DOCKER_KEY if registry == "docker.io" and path.endswith("config.json") else registry


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
