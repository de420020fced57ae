"""How a command reaches registries: what its flags and its environment say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rootless.image.auth import Credentials


@dataclass(frozen=True, slots=True)
class Access:
    """The flags --tls-verify, --creds, --authfile, --cert-dir, --retry and --retry-delay, and the environment.

    `tls_verify`: True insists on verified HTTPS, False also takes unverified HTTPS and plain HTTP, None means what
    registries.conf says, else True except for loopback. `retries` None is the transport's own number; `retry_delay`
    is in seconds, None for a pause that doubles.
    """

    tls_verify: bool | None = None
    credentials: Credentials | None = None
    authfile: str | None = None
    cert_dir: str | None = None
    retries: int | None = None
    retry_delay: float | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
