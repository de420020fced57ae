"""Credential files: where they are, what is in them, and how an entry is changed (containers-auth.json(5)).

$REGISTRY_AUTH_FILE                         alone, if it is set
$XDG_RUNTIME_DIR/containers/auth.json       where `login` writes; /run/containers/UID/auth.json without the variable
~/.config/containers/auth.json
~/.docker/config.json
~/.dockercfg                                Docker's old format: hosts at the top
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rootless.errors import HostError, UsageError
from rootless.image import conffile
from rootless.image.lock import FileLock
from rootless.image.newfile import new_file

LEGACY_DOCKER_KEY = "https://index.docker.io/v1/"
_DOCKER_HOSTS = ("index.docker.io", "registry-1.docker.io")


class Auth(msgspec.Struct, frozen=True):
    """One entry: `auth` is base64 of `user:password`."""

    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""

    def __repr__(self) -> str:
        return "<Auth>"


class AuthFile(msgspec.Struct, frozen=True):
    """What a file says, as far as it is known here."""

    auths: dict[str, Auth] | None = None
    cred_helpers: dict[str, str] | None = msgspec.field(default=None, name="credHelpers")
    creds_store: str = msgspec.field(default="", name="credsStore")

    def __repr__(self) -> str:
        return f"<AuthFile of {len(self.auths or {})} entries>"


def auth_files(environ: Mapping[str, str]) -> list[str]:
    """The credential files of this user, in order of precedence. $REGISTRY_AUTH_FILE stands alone."""
    if explicit := environ.get("REGISTRY_AUTH_FILE"):
        return [explicit]
    home = environ.get("HOME", "")
    runtime = environ.get("XDG_RUNTIME_DIR")
    files = [os.path.join(runtime, "containers/auth.json") if runtime else f"/run/containers/{os.getuid()}/auth.json"]
    if config := environ.get("XDG_CONFIG_HOME") or (home and os.path.join(home, ".config")):
        files.append(os.path.join(config, "containers/auth.json"))
    if docker := environ.get("DOCKER_CONFIG") or (home and os.path.join(home, ".docker")):
        files.append(os.path.join(docker, "config.json"))
    if home:
        files.append(os.path.join(home, ".dockercfg"))
    return files


def read(path: str) -> AuthFile | None:
    """A file's entries; None if there is no file, or nothing in it. Raises UsageError for a malformed one."""
    raw = conffile.read(path, "the credential file") or b""
    if not raw.strip():
        return None
    try:
        if os.path.basename(path) == ".dockercfg":
            return AuthFile(msgspec.json.decode(raw, type=dict[str, Auth]))
        return msgspec.json.decode(raw, type=AuthFile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the credential file {path} is malformed: {error}") from None


def plain_key(key: str) -> str:
    """The registry or repository that a key means: Docker writes `https://host/v1/`."""
    if key == LEGACY_DOCKER_KEY:
        return "docker.io"
    for scheme in ("https://", "http://"):
        if key.startswith(scheme):
            key = key[len(scheme) :].split("/", 1)[0]
    return "docker.io" if key in _DOCKER_HOSTS else key.rstrip("/")


def put(path: str, key: str, username: str, password: str) -> None:
    """Add or replace an entry. Raises UsageError, HostError; no message has the password in it."""
    encoded = base64.b64encode(f"{username}:{password}".encode()).decode()

    def change(document: dict[str, Any]) -> bool:
        auths = _auths(document, path)
        for name in [name for name in auths if plain_key(name) == plain_key(key)]:
            del auths[name]  # other spellings
        auths[key] = {"auth": encoded}
        return True

    _edit(path, change)


def remove(path: str, key: str) -> bool:
    """Take away the entries that mean `key`. Returns whether there was one. Raises UsageError, HostError."""

    def change(document: dict[str, Any]) -> bool:
        auths = _auths(document, path)
        found = [name for name in auths if name == key or plain_key(name) == key]
        for name in found:
            del auths[name]
        return bool(found)

    return os.path.exists(path) and _edit(path, change)


def clear(path: str) -> bool:
    """Take away all entries. Returns whether there was one. Raises UsageError, HostError."""

    def change(document: dict[str, Any]) -> bool:
        auths = _auths(document, path)
        found = bool(auths)
        auths.clear()
        return found

    return os.path.exists(path) and _edit(path, change)


def _auths(document: dict[str, Any], path: str) -> dict[str, Any]:
    auths = document.setdefault("auths", {})
    if auths is None:
        auths = document["auths"] = {}
    if not isinstance(auths, dict):
        raise UsageError(f"the credential file {path} is malformed: auths is not an object")
    return auths


def _edit(path: str, change: Callable[[dict[str, Any]], bool]) -> bool:
    """Change the file in one step; members that are not known here stay. It ends up readable for its user only."""
    path = os.path.realpath(path)  # a link, such as dotfiles are kept with, stays one
    directory = os.path.dirname(path)
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        lock = FileLock(os.path.join(directory, f".{os.path.basename(path)}.rcontain-lock"))
        lock.acquire()
        try:
            document = _document(path)
            if not change(document):
                return False
            with new_file(path, 0o600, sync=True) as file:
                file.write(json.dumps(document, indent="\t").encode())
            return True
        finally:
            lock.unlink()
            lock.release()
    except OSError as error:
        raise HostError(f"cannot write the credential file {path}: {error.strerror}") from error


def _document(path: str) -> dict[str, Any]:
    raw = conffile.read(path, "the credential file") or b""
    try:
        document = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError):
        raise UsageError(f"the credential file {path} is malformed: it is not JSON") from None
    if not isinstance(document, dict):
        raise UsageError(f"the credential file {path} is malformed: it is not a JSON object")
    return document
