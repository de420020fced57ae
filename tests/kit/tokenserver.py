"""A token server for docker-registry's `auth: token` (distribution `spec/auth/token.md`, `jwt.md`, `oauth.md`)."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from .certificates import Authority, server_context

SERVICE = "registry of a test"
ISSUER = "issuer of a test"
Document = dict[str, object]
_LEEWAY = 60  # docker-registry's registry/auth/token takes tokens that have expired no longer ago


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a token that was granted."""

    user: str
    scopes: tuple[str, ...]
    method: str


@dataclass
class TokenServer:
    """Gives tokens. `users` may do everything, others only pull, or nothing if `private`.

    `lifetime` is in seconds, of what the registry accepts; `announced` is what `expires_in` says instead, None for
    nothing. The next `spoiled` tokens have expired already.
    """

    certificate: str
    key: ec.EllipticCurvePrivateKey
    users: dict[str, str] = field(default_factory=dict)
    identity_tokens: dict[str, str] = field(default_factory=dict)
    """Users by their identity (refresh) tokens."""
    private: bool = False
    lifetime: int = 300
    announced: int | None = None
    spoiled: int = 0
    realm: str = ""
    asked: list[Asked] = field(default_factory=list)

    def registry_settings(self) -> str:
        """The registry's `auth:` section."""
        return (
            f'auth: {{token: {{realm: "{self.realm}", service: "{SERVICE}", issuer: "{ISSUER}", '
            f'rootcertbundle: "{self.certificate}"}}}}'
        )

    def answer(
        self, method: str, query: Mapping[str, list[str]], authorization: str | None
    ) -> dict[str, object] | None:
        """The document for one request, None for a 401."""
        if query.get("service") != [SERVICE]:
            return None
        if method == "POST":
            user = self.identity_tokens.get(query.get("refresh_token", [""])[0])
            if user is None or query.get("grant_type") != ["refresh_token"]:
                return None
            scopes = [scope for text in query.get("scope", []) for scope in text.split()]
        else:
            user = self._user(authorization)
            if user is None:
                return None
            scopes = query.get("scope", [])
        self.asked.append(Asked(user, tuple(scopes), method))
        document: Document = {"token": self._token(user, scopes)}
        if self.announced is not None:
            document["expires_in"] = self.announced
        return document

    def _user(self, authorization: str | None) -> str | None:
        if authorization is None:
            return ""
        name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        return name if self.users.get(name) == password else None

    def _token(self, user: str, scopes: list[str]) -> str:
        now = int(time.time())
        lifetime = self.lifetime
        if self.spoiled:
            self.spoiled -= 1
            lifetime = -1
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [action for action in actions.split(",") if user or (action == "pull" and not self.private)]
            if granted:
                access.append({"type": kind, "name": name, "actions": granted})
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + lifetime - _LEEWAY,
            "nbf": now - 600,
            "iat": now,
            "jti": hashlib.sha256(os.urandom(16)).hexdigest()[:16],
            "access": access,
        }
        with open(self.certificate, "rb") as file:
            der = x509.load_pem_x509_certificate(file.read()).public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextmanager
def token_server(directory: str, *, certificate: tuple[str, str] | None = None) -> Iterator[TokenServer]:
    """A `TokenServer` on a free loopback port, over TLS with `certificate` and its key, else over plain HTTP.

    The key and the certificate for the tokens lie in `directory`.
    """
    signer, key_path = Authority(os.path.join(directory, "tokens")).issue("tokens")
    with open(key_path, "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    tokens = TokenServer(signer, key)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
            query = parse_qs(body if self.command == "POST" else urlsplit(self.path).query)
            document = tokens.answer(self.command, query, self.headers.get("authorization"))
            raw = json.dumps(document or {"details": "who are you?"}).encode()
            self.send_response(401 if document is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate is not None:
            server.socket = server_context(certificate).wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        tokens.realm = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield tokens
        finally:
            server.shutdown()
            thread.join()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
