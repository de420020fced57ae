"""Credential helpers: programs `docker-credential-NAME` that keep passwords (docker-credential-helpers, `README.md`).

What they are asked goes to their standard input, so that no secret is ever on a command line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping

import msgspec
import trio

from rootless.errors import HostError, UsageError
from rootless.image.authfile import LEGACY_DOCKER_KEY

TOKEN_USER = "<token>"
"""The user name that marks an identity token."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PATIENCE = 30  # seconds; some ask the user


class Helper:
    """One helper. `origin` is the file that names it. All methods raise UsageError if it is not there or misbehaves."""

    def __init__(self, name: str, origin: str, environ: Mapping[str, str]) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{origin} names a malformed credential helper: {name[:60]!r}")
        self.program = f"docker-credential-{name}"
        self._origin = origin
        self._environ = environ

    async def get(self, registry: str) -> tuple[str, str] | None:
        """The user name and secret for a registry, None if the helper has none."""
        for server in (registry, *([LEGACY_DOCKER_KEY] if registry == "docker.io" else [])):
            status, out = await self._run("get", server.encode())
            if status != 0:
                continue  # helpers exit with 1 where they have nothing for this registry
            try:
                answer = msgspec.json.decode(out, type=dict[str, str])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise UsageError(f"the credential helper {self.program} gave a malformed answer") from None
            if answer.get("Username"):
                return answer["Username"], answer.get("Secret", "")
        return None

    async def store(self, registry: str, username: str, secret: str) -> None:
        """Keep a secret. Raises HostError if the helper refuses."""
        request = {"ServerURL": registry, "Username": username, "Secret": secret}
        status, _ = await self._run("store", msgspec.json.encode(request))
        if status != 0:
            raise HostError(f"the credential helper {self.program} did not store the credentials for {registry}")

    async def erase(self, registry: str) -> bool:
        """Forget a registry. Returns whether there was something to forget."""
        if await self.get(registry) is None:
            return False
        for server in (registry, *([LEGACY_DOCKER_KEY] if registry == "docker.io" else [])):
            status, _ = await self._run("erase", server.encode())
        if await self.get(registry) is not None:
            raise HostError(
                f"the credential helper {self.program} did not erase the credentials for {registry} (status {status})"
            )
        return True

    async def list(self) -> list[str]:
        """The registries it has secrets for."""
        status, out = await self._run("list", b"")
        if status != 0:
            return []
        try:
            return list(msgspec.json.decode(out, type=dict[str, str]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UsageError(f"the credential helper {self.program} gave a malformed answer") from None

    async def _run(self, action: str, request: bytes) -> tuple[int, bytes]:
        path = shutil.which(self.program, path=self._environ.get("PATH"))
        if path is None:
            raise UsageError(f"{self._origin} names the credential helper {self.program}, which is not installed")
        try:
            with trio.fail_after(_PATIENCE):
                result = await trio.run_process(
                    [path, action],
                    stdin=request,
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    env=dict(self._environ),
                )
        except trio.TooSlowError:
            raise UsageError(
                f"the credential helper {self.program} did not answer within {_PATIENCE} seconds"
            ) from None
        except OSError as error:
            raise UsageError(f"cannot run the credential helper {path}: {error.strerror}") from None
        return result.returncode, result.stdout
