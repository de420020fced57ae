"""How a command that fails ends: the sentence on stderr and the exit code."""

from __future__ import annotations

import difflib
import errno
import os
import traceback
from collections.abc import Iterator

import click

from ..errors import RcontainError
from .command import UnknownCommand
from .format import printable

INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports of a program that wrote into a closed pipe
FAILED = 125
_ADVICE = {
    errno.ENOSPC: "free some space, or check where the output goes",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EMFILE: "allow more open files, for instance with `ulimit -n 256`",
    errno.ENFILE: "the machine has no open file left; end some programs",
}


def explain(error: BaseException, *, debug: bool = False) -> tuple[str, int]:
    """What to print (without a final newline; "" for nothing) and the exit code. Pure."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt | click.Abort):
            return "", 128 + getattr(leaf, "number", INTERRUPTED - 128)
    for leaf in leaves:
        if isinstance(leaf, click.exceptions.Exit):
            return "", leaf.exit_code
        if isinstance(leaf, SystemExit):
            return _explain_exit(leaf)
    if all(isinstance(leaf, OSError) and leaf.errno == errno.EPIPE for leaf in leaves):
        return "", BROKEN_PIPE
    # One cause often fails several tasks at once; what we can explain is said, the rest is its echo.
    known = [leaf for leaf in leaves if isinstance(leaf, RcontainError)]
    text = "".join(traceback.format_exception(error)) if debug else ""
    if known:
        # What an image, a registry or a file is called may be in them, in whatever characters.
        sentences = dict.fromkeys("\n".join(map(printable, f"Error: {leaf}".split("\n"))) for leaf in known)
        return text + "\n".join(sentences), known[0].exit_code
    first = leaves[0]
    if isinstance(first, click.ClickException):
        return text + _explain_usage(first), FAILED
    return text + _explain_unexpected(first, debug=debug), FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _explain_exit(error: SystemExit) -> tuple[str, int]:
    if error.code is None:
        return "", 0
    if isinstance(error.code, int):
        return "", error.code
    return f"Error: {error.code}", FAILED


def _explain_unexpected(error: BaseException, *, debug: bool) -> str:
    again = "" if debug else "; run the command with --log-level debug to see where"
    if isinstance(error, OSError) and error.errno is not None:
        subject = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        advice = _ADVICE.get(error.errno)
        return f"Error: {subject}{os.strerror(error.errno)}{f'; {advice}' if advice else again}"
    message = str(error).strip().split("\n")[0]
    return f"Error: unexpected {type(error).__name__}{': ' if message else ''}{message}{again}"


def _explain_usage(error: click.ClickException) -> str:
    """click's errors in Podman's words."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "rcontain"
    see = f"See '{path} --help'"
    match error:
        case UnknownCommand():
            near = "".join(f"\t{name}\n" for name in error.near)
            return (
                f"Error: {error.message}\n"
                + (f"\nDid you mean this?\n{near}\n" if near else "")
                + f"Try '{path} --help' for more information"
            )
        case click.NoSuchOption():
            long = error.option_name.startswith("--")
            flag = f"unknown flag: {error.option_name}" if long else f"unknown shorthand flag: {error.option_name}"
            # click's own suggestions go as far as --init for --ip.
            close = difflib.get_close_matches(error.option_name, error.possibilities or (), n=2, cutoff=0.8)
            near = f"; did you mean {' or '.join(close)}?" if close else ""
            return f"Error: {flag}{near}\n{see}"
        case click.MissingParameter():
            return f"Error: {_missing(error)}\n{see}"
        case click.BadParameter() if error.param is not None and error.param.param_type_name == "option":
            flag = max(error.param.opts, key=len)
            return f'Error: invalid argument for the "{flag}" flag: {_wrong_value(error, error.param)}\n{see}'
        case click.UsageError():
            return f"Error: {_sentence(error.message)}\n{see}"
    return f"Error: {_sentence(error.format_message())}"


def _wrong_value(error: click.BadParameter, param: click.Parameter) -> str:
    """click's sentence where it has a good one: of numbers it says `integer range`, of booleans all spellings."""
    value = error.message.partition(" is not a valid ")[0]
    match param.type:
        case click.IntRange() if value != error.message:
            return f"{value} is not a whole number"
        case click.types.BoolParamType():
            return f"{value} is neither true nor false"
    return _sentence(error.message)


def _missing(error: click.MissingParameter) -> str:
    if error.param is None:
        return _sentence(error.message or "an argument is missing")
    if error.param.param_type_name == "option":
        return f"the flag {max(error.param.opts, key=len)} is required"
    name = error.param.metavar or error.param.human_readable_name
    return f"missing argument: {name.removesuffix('...')}"


def _sentence(text: str) -> str:
    """click's messages begin with a capital and end with a full stop; ours stand after `Error: ` and do neither."""
    text = text.strip()
    if text[:2].istitle() or text[:2] in ("A ", "I "):
        text = text[0].lower() + text[1:]
    return text.removesuffix(".")
