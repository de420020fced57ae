"""The manual as one page of Markdown, made from the commands themselves: docs/man/rcontain.1.md.

rcontain help --all > docs/man/rcontain.1.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import click

from .command import LazyGroup

_HEAD = """\
# rcontain(1)

## NAME

rcontain - run containers as an ordinary user

## SYNOPSIS

**rcontain** [*OPTIONS*] *COMMAND* [*ARG*...]

## DESCRIPTION

"""

_TAIL = """\
## EXIT STATUS

**run**, **start --attach** and **exec** exit with the status of the command in the container. Besides:

| status | meaning |
|---|---|
| 125 | rcontain could not do it: a wrong flag, no such image, a missing permission; the reason is on stderr |
| 126 | the command is in the image and cannot be executed |
| 127 | the command is not in the image |
| 128 + *N* | the command, or rcontain itself, ended by signal *N* |
| 1 | **exists**: no; **rm**, **rmi**: there is no such container or image |
| 2 | **rmi**: containers use the image |

## ENVIRONMENT

| variable | meaning |
|---|---|
| `RCONTAIN_STORAGE_DRIVER` | as `--storage-driver` |
| `RCONTAIN_NO_ENGINE=1` | as `--no-engine` |
| `REGISTRY_AUTH_FILE` | where credentials for registries are |
| `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` | the way to registries |
| `XDG_DATA_HOME`, `XDG_RUNTIME_DIR` | where images and containers, and sockets and locks are kept |

## FILES

| path | what it is |
|---|---|
| `~/.local/share/rcontain` | images (an OCI image layout), containers, volumes |
| `$XDG_RUNTIME_DIR/rcontain` | sockets and locks |
| `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.docker/config.json` | credentials for registries |
| `/etc/subuid`, `/etc/subgid` | the ids that your containers may use |
"""


def manual(root: LazyGroup) -> str:
    """The whole manual. Independent of the terminal it is made on."""
    context = click.Context(root, info_name="rcontain", terminal_width=100)
    lines = [_HEAD + _description(root), "", "### Global options", "", *_options(context)]
    lines += ["", "### Examples", "", *_examples(root.examples), ""]
    section = ""
    for name, verb in root.verbs.items():
        if verb.hidden:
            continue
        if verb.section != section:
            section = verb.section
            lines += [f"## {section.upper()}", ""]
        lines += _command(click.Context(verb.load(), info_name=name, parent=context))
    return "\n".join(lines) + "\n" + _TAIL


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"### {context.command_path}"
    yield ""
    yield f"`{context.command_path} {usage}`"
    yield ""
    yield _description(command)
    yield ""
    options = list(_options(context))
    if isinstance(command, LazyGroup):
        for name, verb in command.verbs.items():
            if not verb.hidden:
                short = verb.load().get_short_help_str(limit=100).removesuffix(".")
                yield f"- **{name}** - {short}"
        yield ""
        if command.name in ("engine", "network"):
            for name, verb in command.verbs.items():
                yield from _command(click.Context(verb.load(), info_name=name, parent=context))
        return
    if options:
        yield from options
        yield ""
    examples = getattr(command, "examples", ())
    if examples:
        yield from _examples(examples)
        yield ""


def _description(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").split("\f")[0]


def _options(context: click.Context) -> Iterator[str]:
    for param in context.command.get_params(context):
        if not isinstance(param, click.Option) or param.hidden or "--help" in param.opts:
            continue
        names = ", ".join(sorted(param.opts, key=lambda name: name.startswith("--")))
        yield f"- `{names}{f' {param.metavar}' if param.metavar else ''}` - {param.help}"


def _examples(examples: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield "```"
    for line, meaning in examples:
        if meaning:
            yield f"# {meaning}"
        yield line
    yield "```"
