"""Completion for bash, zsh and fish: the scripts, the answers to them, and the names they offer.

The shell's script runs `rcontain` with _RCONTAIN_COMPLETE=<shell>_complete and the words typed so far in COMP_WORDS and
COMP_CWORD (click.shell_completion describes the protocol). The client hands its environment to the session, so the
answer comes from there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

from ..container.containers import Containers
from ..errors import RcontainError
from ..image.store import Store
from ..oci.reference import Reference
from ..runtime import capabilities
from ..settings import Settings
from .command import COMPLETED, Command, Completer, LazyGroup
from .networks import NETWORKS
from .session import Session

VARIABLE = "_RCONTAIN_COMPLETE"

# bash splits words at the colons of COMP_WORDBREAKS, which image names are full of; so the script sends the line as it
# is up to the cursor, and the answer leaves out what bash will keep anyway.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line response type value
    response=$(env COMP_WORDS="${COMP_LINE:0:COMP_POINT}" COMP_CWORD= %(complete_var)s=bash_complete "$1" 2>/dev/null)
    for line in $response; do
        IFS=, read -r type value <<< "$line"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """click's own bash script loses the words after a colon."""

    source_template = _BASH
    _kept = 0

    @staticmethod
    def _check_version() -> None:
        """click starts a bash to learn its version here; a script that is printed may be meant for another machine."""

    def get_completion_args(self) -> tuple[list[str], str]:
        if os.environ.get("COMP_CWORD"):  # a script of click's own making
            return super().get_completion_args()
        line = os.environ.get("COMP_WORDS", "")
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        # What bash replaces starts after the last of these characters.
        self._kept = max(incomplete.rfind(":"), incomplete.rfind("=")) + 1
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{str(item.value)[self._kept :]}"


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": ZshComplete, "fish": FishComplete}


def answer(cli: click.Command, session: Session, instruction: str) -> int:
    """Prints what `instruction` (<shell>_source or <shell>_complete) asks for; returns the exit code."""
    shell, _, action = instruction.partition("_")
    if shell not in SHELLS or action not in ("source", "complete"):
        return 1
    if action == "source":
        click.echo(script(cli, shell), nl=False)
        return 0
    for name in ("COMP_WORDS", "COMP_CWORD"):  # click looks for them in the environment of its process
        os.environ[name] = session.environment.get(name, "")
    try:
        found = SHELLS[shell](cli, {"obj": session}, "rcontain", VARIABLE).complete()
        click.echo(found, nl=bool(found))
    except (ValueError, RcontainError, click.ClickException):
        return 1  # half a command line that cannot be understood has no completions
    return 0


def script(cli: click.Command, shell: str) -> str:
    """The script that a shell reads to complete `rcontain`."""
    return SHELLS[shell](cli, {}, "rcontain", VARIABLE).source()


@click.command(
    "completion",
    cls=Command,
    examples=[
        ("source <(rcontain completion bash)", "In this shell; put the line into ~/.bashrc for all"),
        ("rcontain completion zsh > ~/.zfunc/_rcontain", "With fpath+=~/.zfunc in ~/.zshrc"),
        ("rcontain completion fish > ~/.config/fish/completions/rcontain.fish", ""),
    ],
)
@click.argument("shell", type=click.Choice(list(SHELLS)), metavar="bash|zsh|fish")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Commands, flags, container names and image names are completed.
    """
    click.echo(script(ctx.find_root().command, shell), nl=False)


def _settings(ctx: click.Context) -> Settings:
    from .main import with_flags  # main imports this module

    flags = ctx.find_root().params
    session: Session = ctx.find_root().obj
    return with_flags(
        session,
        root=flags.get("root"),
        storage_driver=flags.get("storage_driver"),
        log_level=flags.get("log_level") or "warn",
    )


def _matching(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=about or None) for name, about in names if name.startswith(incomplete)]


def container_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of containers, and ids once one has been begun."""
    found: list[tuple[str, str]] = []
    for container in Containers(_settings(ctx)):
        record = container.record()
        about = f"{record.image_name} ({container.state().status})"
        found.append((record.name, about))
        if incomplete:
            found.append((container.id[:12], about))
    return _matching(found, incomplete)


def networks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The networks, and once `container:` has been begun the containers whose network can be shared."""
    kind, colon, name = incomplete.partition(":")
    if kind == "container" and colon:
        found = container_names(ctx, param, name)
        return [CompletionItem(f"container:{item.value}", help=item.help) for item in found]
    return _matching([(word, "") for word in (*NETWORKS, "container:", "ns:")], incomplete)


def image_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Full names of images, short ones of docker.io, and ids once one has been begun."""
    found: dict[str, str] = {}
    for image in Store(_settings(ctx).data).images():
        for name in image.names:
            found[name] = image.short_id
            found.setdefault(Reference.parse(name).familiar, image.short_id)
        if incomplete:
            found.setdefault(image.id[:12], "")
    return _matching(found.items(), incomplete)


def container_or_image_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For `inspect`."""
    return [*container_names(ctx, param, incomplete), *image_names(ctx, param, incomplete)]


def file_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell."""
    return [CompletionItem(incomplete, type="file")]


def folder_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leaves it to the shell."""
    return [CompletionItem(incomplete, type="dir")]


def volume_sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For -v: what is before the first colon is on this machine."""
    return [] if ":" in incomplete else file_names(ctx, param, incomplete)


def verb_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For `help`: the verbs below the words that are there already."""
    group: click.Command = ctx.find_root().command
    for word in ctx.params.get("words") or ():
        if not isinstance(group, LazyGroup) or word not in group.verbs:
            return []
        group = group.verbs[word].load()
    if not isinstance(group, LazyGroup):
        return []
    return _matching(((name, "") for name, verb in group.verbs.items() if not verb.hidden), incomplete)


def words(*offered: str) -> Completer:
    """Offers what is known beforehand."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _matching(((word, "") for word in offered), incomplete)

    return complete


COMPLETED.update(
    CONTAINER=container_names,
    IMAGE=image_names,
    FILE=file_names,
    FOLDER=folder_names,
    SOURCE=volume_sources,
    VERB=verb_names,
    NETWORK=networks,
    RULE=words("deny", "allow", "deny=", "allow="),
    MODE=words("host", "keep-id", "nomap"),
    CAPABILITY=words("ALL", *capabilities.NAMES),
    SIGNAL=words(*(name.name.removeprefix("SIG") for name in signal.Signals)),
)
