"""What a request shows to a registry: nothing, a password, or a token that another server gives for a while.

Sources: distribution `spec/auth/token.md`, `scope.md` and `oauth.md`; RFC 7617 (Basic), RFC 6750 (Bearer). A token is
for a set of scopes such as `repository:library/busybox:pull`; it is kept until it expires, or until the registry
refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx
import msgspec
import trio

from rootless.errors import RegistryError
from rootless.image.auth import Challenge, Credentials
from rootless.image.faults import Unauthorized
from rootless.image.transport import Transport, steadily

_CLIENT = "rcontain"
_TOKEN_MAX = 1 << 20
_LIFETIME = 60.0  # seconds, where the server does not say (token.md)
_USED = 0.9  # of its life a token is used; then there is a new one before the registry has to ask
_SCOPES_MAX = 16

Scopes = frozenset[str]


def pull_scope(repository: str) -> str:
    """To read from a repository (the part of the name behind the registry)."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """To read from a repository and write to it."""
    return f"repository:{repository}:pull,push"


class _Answer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A token, and until when (trio's clock) it is used."""

    value: str
    until: float


class Tokens:
    """The authorization for requests to one registry; one object for all tasks.

    `registry` is what messages call it. `plain` is whether the registry is spoken to over plain HTTP: then its token
    server may be, too.
    """

    def __init__(self, transport: Transport, registry: str, credentials: Credentials | None) -> None:
        self._transport = transport
        self._registry = registry
        self._credentials = credentials
        self._challenges: list[Challenge] = []
        self._held: dict[Scopes, _Held] = {}
        self._more: dict[Scopes, Scopes] = {}
        self._lock = trio.Lock()
        self.plain = False

    def learn(self, challenges: list[Challenge]) -> None:
        """Note what the registry asks for in a 401."""
        if challenges:
            self._challenges = challenges

    async def authorization(self, scopes: Scopes) -> str | None:
        """The value of the header Authorization, None if the registry has not asked for anything.

        Raises RegistryError if there is nothing to answer with, or the token server refuses.
        """
        bearer = next((one for one in self._challenges if one.scheme == "bearer"), None)
        if bearer is not None and bearer.parameters.get("realm"):
            wanted = self._more.get(scopes, scopes)
            async with self._lock:
                held = self._held.get(wanted)
                if held is None or held.until <= trio.current_time():
                    held = await self._fetch(bearer, wanted)
                    self._held[wanted] = held
            return held.value
        if any(one.scheme == "basic" for one in self._challenges):
            if self._credentials is None or not self._credentials.username:
                raise Unauthorized(
                    f"the registry {self._registry} wants a user name and a password, and there are none for it",
                    hint=f"log in with `rcontain login {self._registry}`, or name a file in REGISTRY_AUTH_FILE",
                )
            return self._credentials.basic
        if self._challenges:
            raise RegistryError(f"the registry {self._registry} asks for an authentication that is not known here")
        return None

    def refused(self, used: str | None, scopes: Scopes, challenges: list[Challenge]) -> bool:
        """After a 401 to a request with `used`: whether another attempt may do better.

        A password does not get better. A token is forgotten, as it may have expired; if the registry says that it was
        not enough (`insufficient_scope`), the next one is for what the registry names as well, once.
        """
        self.learn(challenges)
        if not challenges or (used is not None and not used.startswith("Bearer ")):
            return False
        for key in [key for key, held in self._held.items() if held.value == used]:
            del self._held[key]
        if used is None:
            return True
        for challenge in challenges:
            if challenge.parameters.get("error") == "insufficient_scope":
                wanted = self._more.get(scopes, scopes)
                named = challenge.parameters.get("scope", "").split()[:_SCOPES_MAX]
                if not _lacking(named, wanted) or scopes in self._more:
                    return False
                self._more[scopes] = wanted | frozenset(named)
        return True

    def unauthorized(self, scopes: Scopes) -> Unauthorized:
        """The error for a 401 that stays, to a request that needed `scopes`."""
        names = sorted({f"{self._registry}/{_repository(scope)}" for scope in scopes if _repository(scope)})
        name = ", ".join(names) or self._registry
        if self._credentials is not None:
            origin = self._credentials.origin or "the command line"
            return Unauthorized(
                f"the registry {self._registry} refused the user name or password from {origin} for {name}",
                hint=f"log in again with `rcontain login {self._registry}`",
            )
        doing = "push to" if any(action == "push" for scope in scopes for _, action in _actions(scope)) else "fetch"
        return Unauthorized(
            f"the registry {self._registry} does not let anyone {doing} {name} without logging in, "
            "or it does not exist",
            hint=f"check the name, or log in with `rcontain login {self._registry}`",
        )

    async def _fetch(self, challenge: Challenge, scopes: Scopes) -> _Held:
        realm = challenge.parameters["realm"]
        if not realm.startswith("https://") and not (self.plain and realm.startswith("http://")):
            raise RegistryError(
                f"the registry {self._registry} sends to {realm[:200]!r} for a token, which is not safe"
            )
        host = httpx.URL(realm).host
        service = challenge.parameters.get("service", "")
        credentials = self._credentials
        headers = {"Accept": "application/json"}
        asked_at = trio.current_time()
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                "service": service,
                "scope": " ".join(sorted(scopes)),
            }
            asked = self._transport.request("POST", realm, headers=headers, form=form)
        else:
            query = [("service", service)] if service else []
            query += [("scope", scope) for scope in sorted(scopes)]
            if credentials is not None and credentials.username:
                query.append(("account", credentials.username))
                headers["Authorization"] = credentials.basic
            separator = "&" if "?" in realm else "?"
            asked = self._transport.request("GET", f"{realm}{separator}{urlencode(query)}", headers=headers)
        async with asked as response:
            if response.status_code in (400, 401, 403):
                raise self.unauthorized(scopes)
            if response.status_code != 200:
                raise RegistryError(f"{host} refused to give a token for {_names(scopes)}: {response.status_code}")
            answer = await self._read(response, host)
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{host} gave no token for {_names(scopes)}")
        lifetime = _LIFETIME if answer.expires_in is None else max(0.0, answer.expires_in)
        return _Held(f"Bearer {token}", asked_at + lifetime * _USED)

    async def _read(self, response: httpx.Response, host: str) -> _Answer:
        raw = bytearray()
        try:
            async with aclosing(steadily(response, decoded=True)) as chunks:
                async for chunk in chunks:
                    raw += chunk
                    if len(raw) > _TOKEN_MAX:
                        raise RegistryError(f"the token from {host} is larger than {_TOKEN_MAX} bytes")
            return msgspec.json.decode(raw, type=_Answer)
        except httpx.HTTPError as error:
            raise RegistryError(self._transport.explain(error, str(response.request.url))) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RegistryError(f"{host} gave a malformed answer where a token was expected") from None


def _lacking(named: Iterable[str], had: Scopes) -> set[tuple[str, str]]:
    """The actions that `named` has and `had` has not, by resource."""
    return {pair for scope in named for pair in _actions(scope)} - {pair for scope in had for pair in _actions(scope)}


def _actions(scope: str) -> list[tuple[str, str]]:
    """`repository:a/b:pull,push` as (`repository:a/b`, `pull`) and (…, `push`)."""
    resource, _, actions = scope.rpartition(":")
    return [(resource, action) for action in actions.split(",") if action]


def _repository(scope: str) -> str:
    kind, _, rest = scope.partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


def _names(scopes: Scopes) -> str:
    return ", ".join(sorted(scopes))
