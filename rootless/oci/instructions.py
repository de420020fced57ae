"""The instructions that `commit -c` and `import -c` take: those of a Dockerfile that change a configuration.

    CMD, ENTRYPOINT   ["program", "argument"] or a shell's command line
    ENV, LABEL        name=value name="value with blanks" …, or name value
    EXPOSE            port[/protocol] …              VOLUME      ["/path", …] or /path …
    USER, WORKDIR, STOPSIGNAL, ONBUILD               one value

Source: the Dockerfile reference. Pure: a configuration and text in, a configuration out. Raises UsageError.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence

from msgspec import structs

from rootless.errors import UsageError
from rootless.oci.documents import ExecutionConfig

DEFAULT_SHELL = ("/bin/sh", "-c")
_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)(?:\s+|\s*=\s*)(.*)", re.S)
"""Docker's form; Podman also takes `CMD=/bin/bash`."""
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.I)
_ONBUILD_FORBIDDEN = ("ONBUILD", "FROM", "MAINTAINER")
_ESCAPED = '\\"$'


def apply(config: ExecutionConfig, instructions: Sequence[str]) -> ExecutionConfig:
    """`config` as the instructions change it, one after the other.

    As in a build, an ENTRYPOINT takes away a CMD that was there before: that has the arguments of another program.
    """
    has_command = False
    for text in instructions:
        match = _INSTRUCTION.fullmatch(text)
        name = match[1].upper() if match else text.strip().upper()
        change = _CHANGES.get(name)
        if change is None:
            raise UsageError(
                f"the instruction {text[:80]!r} cannot change an image", hint=f"known are {', '.join(_CHANGES)}"
            )
        value = match[2].strip() if match else ""
        if not value and name not in ("CMD", "ENTRYPOINT"):
            raise UsageError(f"the instruction {name} needs a value")
        config = change(config, value)
        has_command = has_command or name == "CMD"
        if name == "ENTRYPOINT" and not has_command:
            config = structs.replace(config, cmd=None)
    return config


def _cmd(config: ExecutionConfig, value: str) -> ExecutionConfig:
    return structs.replace(config, cmd=_command(config, value, "CMD"))


def _entrypoint(config: ExecutionConfig, value: str) -> ExecutionConfig:
    return structs.replace(config, entrypoint=_command(config, value, "ENTRYPOINT"))


def _command(config: ExecutionConfig, value: str, name: str) -> tuple[str, ...] | None:
    if not value:
        return None
    words = _list(value, name)
    return (*(config.shell or DEFAULT_SHELL), value) if words is None else words or None


def _env(config: ExecutionConfig, value: str) -> ExecutionConfig:
    merged = dict(entry.partition("=")[::2] for entry in config.env or ())
    merged.update(_pairs(value, "ENV"))
    return structs.replace(config, env=tuple(f"{name}={text}" for name, text in merged.items()))


def _label(config: ExecutionConfig, value: str) -> ExecutionConfig:
    return structs.replace(config, labels={**(config.labels or {}), **_pairs(value, "LABEL")})


def _expose(config: ExecutionConfig, value: str) -> ExecutionConfig:
    ports = dict(config.exposed_ports or {})
    for word in value.split():
        match = _PORT.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if match is None or not 0 < first <= last < 65536:
            raise UsageError(f"EXPOSE {word[:40]} is not a port", hint="use a number such as 80, or 53/udp")
        for number in range(first, last + 1):
            ports[f"{number}/{(match[3] or 'tcp').lower()}"] = {}
    return structs.replace(config, exposed_ports=ports)


def _volume(config: ExecutionConfig, value: str) -> ExecutionConfig:
    paths = _list(value, "VOLUME") or tuple(value.split())
    for path in paths:
        if not path.startswith("/"):
            raise UsageError(f"VOLUME {path[:80]!r} is not an absolute path")
    return structs.replace(config, volumes={**(config.volumes or {}), **{path: {} for path in paths}})


def _workdir(config: ExecutionConfig, value: str) -> ExecutionConfig:
    """Relative to the one before, as in a build."""
    path = posixpath.normpath(posixpath.join("/", config.working_dir, value))
    return structs.replace(config, working_dir="/" + path.lstrip("/"))


def _user(config: ExecutionConfig, value: str) -> ExecutionConfig:
    return structs.replace(config, user=_one(value, "USER"))


def _stopsignal(config: ExecutionConfig, value: str) -> ExecutionConfig:
    return structs.replace(config, stop_signal=_one(value, "STOPSIGNAL"))


def _onbuild(config: ExecutionConfig, value: str) -> ExecutionConfig:
    name = value.split(None, 1)[0].upper()
    if name in _ONBUILD_FORBIDDEN:
        raise UsageError(f"ONBUILD {name} is not allowed")
    return structs.replace(config, on_build=(*(config.on_build or ()), value))


_CHANGES: dict[str, Callable[[ExecutionConfig, str], ExecutionConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def _list(value: str, name: str) -> tuple[str, ...] | None:
    """The words of a JSON list; None for what is none, which then is a command line."""
    if not value.startswith("["):
        return None
    try:
        words = json.loads(value)
    except ValueError:
        return None  # a Dockerfile's `CMD [ -f /etc/x ] && …` is a shell's, too
    except RecursionError:
        raise UsageError(f"the list of {name} is nested too deeply") from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{name} {value[:80]} is not a list of texts")
    return tuple(words)


def _one(value: str, name: str) -> str:
    if len(value.split()) != 1:
        raise UsageError(f"the instruction {name} takes one value, not {value[:80]!r}")
    return value


def _pairs(text: str, what: str) -> dict[str, str]:
    """`name=value …`, values quoted as a shell has it; or, in the old form, `name` and the rest of the line."""
    first = text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise UsageError(f"{what} {text[:80]!r} is not NAME=VALUE")
        return {first[0]: first[1]}
    found: dict[str, str] = {}
    for word in _words(text, what):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{what} {word[:80]!r} is not NAME=VALUE")
        found[name] = value
    return found


def _words(text: str, what: str) -> list[str]:
    """Words between blanks, without their quotes and backslashes."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    at = 0
    while at < len(text):
        letter = text[at]
        at += 1
        if quote != "'" and letter == "\\" and at < len(text) and (not quote or text[at] in _ESCAPED):
            word = word or []
            word.append(text[at])
            at += 1
        elif quote:
            word = word or []
            if letter == quote:
                quote = ""
            else:
                word.append(letter)
        elif letter in "\"'":
            quote = letter
            word = word or []
        elif letter.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
        else:
            word = word or []
            word.append(letter)
    if quote:
        raise UsageError(f"{what} {text[:80]!r} has a quote that does not end")
    if word is not None:
        words.append("".join(word))
    return words
