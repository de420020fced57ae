"""What goes wrong between here and a registry, in words: failed exchanges, and answers that are refusals."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Sequence

import httpx
import msgspec

from rootless.errors import RegistryError

_CERTIFICATE_ALERT = re.compile("ALERT_.*CERTIFICATE|ALERT_UNKNOWN_CA")  # what the other side says of ours


class NotThere(RegistryError):
    """The registry has no such image, blob or repository."""


class Unauthorized(RegistryError):
    """The registry does not accept who asks, or does not let them do it."""


class CutOff(RegistryError):
    """A body that stopped in the middle."""


class TooSlow(httpx.ReadTimeout):
    """Bytes arrive, and so few that it is as good as none."""


class Fault(msgspec.Struct, frozen=True):
    """One entry of `errors` in a registry's answer (distribution-spec, "Error Codes")."""

    code: str = ""
    message: str = ""


class _Faults(msgspec.Struct, frozen=True):
    errors: list[Fault] = []


def parse_faults(raw: bytes) -> list[Fault]:
    """The errors in the body of an answer; none if it is something else: the status says enough."""
    try:
        return msgspec.json.decode(raw, type=_Faults).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def refusal(
    response: httpx.Response, faults: Sequence[Fault], what: str, *, registry: str, name: str, doing: str = "fetching"
) -> RegistryError:
    """The error for an answer other than success, 401 apart. `what` was asked for, of the repository `name`."""
    codes = {fault.code for fault in faults}
    said = f" ({'; '.join(quoted(fault.message or fault.code) for fault in faults[:3])})" if faults else ""
    status = response.status_code
    if status == 403:
        return Unauthorized(f"the registry {registry} forbids {doing} {name}{said}")
    if status == 404 and "NAME_UNKNOWN" in codes:
        return NotThere(f"the registry {registry} has no repository {name.partition('/')[2]}")
    if status == 404 and what.startswith("blob "):
        return NotThere(f"the registry {registry} has lost {what} of {name}", hint="push the image again")
    if status == 404:
        return NotThere(f"the registry {registry} has no image {what}{said}", hint="check the name and the tag")
    if status == 429:
        wait = response.headers.get("retry-after")
        hint = "try again later, or log in"
        if wait:
            hint = f"try again in {wait} seconds" if wait.isdigit() else f"try again after {quoted(wait)}"
        return RegistryError(f"the registry {registry} says that there are too many requests{said}", hint=hint)
    if status >= 500:
        return RegistryError(f"the registry {registry} is unwell: it answered {status} when asked for {what}{said}")
    return RegistryError(f"the registry {registry} answered {status} when asked for {what}{said}")


def worth_retrying(error: Exception) -> bool:
    """Whether the same request may succeed in a moment: not after a refusal, an unknown host or a bad certificate."""
    cause = _cause(error)
    if isinstance(cause, (socket.gaierror, ssl.SSLError)) or _errno(cause) == errno.ECONNREFUSED:
        return False
    return isinstance(error, (httpx.TransportError, OSError)) and not isinstance(
        error, (httpx.UnsupportedProtocol, httpx.ConnectTimeout, httpx.LocalProtocolError, httpx.ProxyError)
    )


def explain(error: Exception, url: str, proxy: str | None = None) -> str:
    """The sentence for a failed request; `proxy` is the `host:port` that it went through."""
    target = httpx.URL(url)
    where = f"{target.host}:{target.port}" if target.port else target.host
    through = f" through the proxy {proxy}" if proxy else ""
    cause = _cause(error)
    if isinstance(cause, socket.gaierror):
        reason = (
            f"cannot find the proxy {proxy}: the host name is unknown ({cause.strerror})"
            if proxy
            else f"cannot find the registry {where}: the host name is unknown ({cause.strerror})"
        )
    elif isinstance(cause, ssl.SSLCertVerificationError):
        reason = (
            f"the certificate of {where} cannot be trusted: {cause.verify_message}; "
            "add its authority to ~/.config/containers/certs.d, or use --tls-verify=false"
        )
    elif isinstance(cause, ssl.SSLError) and _CERTIFICATE_ALERT.search(cause.reason or ""):
        reason = (
            f"{where} wants a client certificate, or another one ({cause.reason}); put it as NAME.cert and NAME.key "
            f"into ~/.config/containers/certs.d/{where}"
        )
    elif isinstance(cause, ssl.SSLError):
        reason = (
            f"{where} does not speak TLS as expected ({cause.reason or cause}); for plain HTTP use --tls-verify=false"
        )
    elif isinstance(error, httpx.ProxyError):
        reason = f"the proxy {proxy} does not let us through to {where}: {quoted(str(error))}"
    elif _errno(cause) == errno.ECONNREFUSED:
        reason = (
            f"cannot reach the proxy {proxy}: connection refused"
            if proxy
            else f"cannot reach the registry {where}: connection refused; is it running there?"
        )
    elif isinstance(error, TooSlow):
        reason = f"the registry {where} sends its answer too slowly{through}: {error}"
    elif isinstance(error, httpx.TimeoutException):
        reason = f"the registry {where} did not answer in time{through}"
    elif isinstance(error, httpx.ConnectError):
        reason = f"cannot reach the registry {where}{through}: {_reason(cause)}"
    elif isinstance(error, httpx.InvalidURL):
        reason = f"{url[:200]!r} is not a usable address: {error}"
    elif isinstance(error, httpx.RemoteProtocolError) and "peer closed connection without" in str(error):
        reason = f"the registry {where} closed the connection in the middle of an answer"
    elif isinstance(error, httpx.RemoteProtocolError):
        reason = f"{where} does not answer as a web server ({error}); is it a registry?"
    else:
        reason = f"the exchange with {where} failed{through}: {_reason(cause)}"
    return reason


def quoted(text: str) -> str:
    """The far side's own words, made harmless for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def _cause(error: BaseException) -> BaseException:
    """The innermost cause that says most: httpx and httpcore wrap what the socket raised."""
    seen: set[int] = set()
    best: BaseException = error
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, (OSError, ssl.SSLError)):
            best = current
        if isinstance(current, BaseExceptionGroup) and current.exceptions:
            current = current.exceptions[0]
        else:
            current = current.__cause__ or current.__context__
    return best


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        if error.errno is None and "refused" in str(error).lower():
            return errno.ECONNREFUSED
        return error.errno
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
