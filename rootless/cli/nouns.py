"""`rcontain container|image|system`: the verbs again, as Podman and Docker also spell them; and `rcontain network` and
`rcontain manifest`.
"""

from __future__ import annotations

import click

from .command import LazyGroup, Verb

_SAME = ("run", "create", "start", "stop", "restart", "kill", "rm", "exec", "ps", "logs", "wait")
_MODULES = {"run": "run", "create": "run", "exec": "exec", "ps": "ps", "logs": "logs"}

CONTAINER = {
    "ls": Verb("ps", "ps"),
    "list": Verb("ps", "ps", hidden=True),
    **{
        name: Verb(_MODULES.get(name, "lifecycle"), "exec_" if name == "exec" else name, hidden=name == "ps")
        for name in _SAME
    },
    "inspect": Verb("inspect", "container_inspect"),
    "exists": Verb("exists", "container_exists"),
    "commit": Verb("commit", "commit", preload=False),
    "export": Verb("export", "export", preload=False),
    "diff": Verb("diff", "container_diff", preload=False),
}

IMAGE = {
    "ls": Verb("images", "images"),
    "list": Verb("images", "images", hidden=True),
    "pull": Verb("pull", "pull"),
    "load": Verb("load", "load", preload=False),
    "save": Verb("save", "save", preload=False),
    "push": Verb("push", "push", preload=False),
    "rm": Verb("rmi", "rmi"),
    "tag": Verb("tag", "tag"),
    "untag": Verb("tag", "untag"),
    "inspect": Verb("inspect", "image_inspect"),
    "import": Verb("import_", "import_", preload=False),
    "exists": Verb("exists", "image_exists"),
    "history": Verb("history", "history", preload=False),
    "tree": Verb("tree", "tree", preload=False),
    "blame": Verb("blame", "blame", preload=False),
    "diff": Verb("imagediff", "image_diff", preload=False),
    "mount": Verb("imagemount", "mount", preload=False),
    "unmount": Verb("imagemount", "unmount", preload=False),
    "umount": Verb("imagemount", "unmount", hidden=True, preload=False),
    "prune": Verb("prune", "image_prune", preload=False),
}

MANIFEST = {
    name: Verb("manifest", name, preload=False)
    for name in ("create", "add", "annotate", "inspect", "push", "remove", "rm", "exists")
}

NETWORK = {"flows": Verb("flows", "flows")}

SYSTEM = {
    "info": Verb("info", "info"),
    "df": Verb("df", "df", preload=False),
    "prune": Verb("prune", "system_prune", preload=False),
    "check": Verb("check", "check", preload=False),
}


@click.command("container", cls=LazyGroup, verbs=CONTAINER, subcommand_metavar="COMMAND [ARG...]")
def container() -> None:
    """Work with containers."""


@click.command("image", cls=LazyGroup, verbs=IMAGE, subcommand_metavar="COMMAND [ARG...]")
def image() -> None:
    """Work with images."""


@click.command("manifest", cls=LazyGroup, verbs=MANIFEST, subcommand_metavar="COMMAND [ARG...]")
def manifest() -> None:
    """Make and push lists of images for several platforms."""


@click.command(
    "network",
    cls=LazyGroup,
    verbs=NETWORK,
    subcommand_metavar="COMMAND [ARG...]",
    examples=[("rcontain network flows web", "With whom web talks, and how much")],
)
def network() -> None:
    """Look into the networks of containers."""


@click.command("system", cls=LazyGroup, verbs=SYSTEM, subcommand_metavar="COMMAND [ARG...]")
def system() -> None:
    """Facts about this installation."""
