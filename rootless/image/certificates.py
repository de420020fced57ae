"""TLS for one registry: whom to trust, and the certificate to show (containers-certs.d(5)).

In a registry's directory `NAME.crt` is a certificate authority, and `NAME.cert` with `NAME.key` a client certificate
and its key, for registries that ask for one.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

from rootless.errors import UsageError

_AUTHORITY = ".crt"
_CERTIFICATE = ".cert"
_KEY = ".key"


def tls_context(registry: str, *, verify: bool, environ: Mapping[str, str], cert_dir: str | None) -> ssl.SSLContext:
    """The system's certificate authorities and what is in the registry's directory.

    The directory is `cert_dir`, else the first that exists of containers-certs.d(5): `registry` is `host[:port]` as it
    is written in image names, `docker.io` for Docker Hub. Raises UsageError for files that cannot be used.
    """
    if verify:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_dir is not None:
        try:
            names = os.listdir(cert_dir)
        except OSError as error:
            raise UsageError(f"cannot read the directory of certificates {cert_dir}: {error.strerror}") from error
        _add(context, cert_dir, names)
        return context
    home = environ.get("HOME", "")
    for parent in (os.path.join(home, ".config/containers/certs.d"), "/etc/containers/certs.d", "/etc/docker/certs.d"):
        directory = os.path.join(parent, registry)
        try:
            names = os.listdir(directory)
        except OSError:
            continue  # there is none, or it is for root only, as /etc/docker may be
        _add(context, directory, names)
        break
    return context


def _add(context: ssl.SSLContext, directory: str, names: list[str]) -> None:
    for name in sorted(names):
        path = os.path.join(directory, name)
        stem, suffix = os.path.splitext(name)
        if suffix == _AUTHORITY:
            try:
                context.load_verify_locations(path)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"cannot use the certificate {path}: {error}") from error
        elif suffix == _CERTIFICATE:
            if stem + _KEY not in names:
                raise UsageError(
                    f"the client certificate {path} lacks its key {stem}{_KEY}",
                    hint=f"if it is a certificate authority, its name must end with {_AUTHORITY}",
                )
            try:
                # Without a password of ours OpenSSL would ask on the terminal.
                context.load_cert_chain(path, os.path.join(directory, stem + _KEY), password="")
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"cannot use the client certificate {path} and its key: {error}") from error
        elif suffix == _KEY and stem + _CERTIFICATE not in names:
            raise UsageError(f"the key {path} lacks its client certificate {stem}{_CERTIFICATE}")
