"""`rcontain logout`."""

from __future__ import annotations

import click

from ..errors import UsageError
from ..image.auth import find_for, forget, forget_all
from .command import Command
from .login import registry_key
from .registryflags import access
from .session import Session, pass_session


@click.command(
    "logout",
    cls=Command,
    examples=[
        ("rcontain logout quay.io", "Forget the password"),
        ("rcontain logout --all", "Forget all of them"),
    ],
)
@click.option("-a", "--all", "all_", is_flag=True, help="Forget the credentials for all registries.")
@click.option(
    "--authfile",
    metavar="FILE",
    help="Forget those in FILE [default: $REGISTRY_AUTH_FILE, else $XDG_RUNTIME_DIR/containers/auth.json].",
)
@click.option("--compat-auth-file", metavar="FILE", help="Forget those in FILE, such as ~/.docker/config.json.")
@click.argument("registry", metavar="[REGISTRY]", required=False)
@pass_session
def logout(
    session: Session, all_: bool, authfile: str | None, compat_auth_file: str | None, registry: str | None
) -> None:
    """Forget the credentials that `login` keeps for a registry."""
    if authfile and compat_auth_file:
        raise UsageError("give either --authfile or --compat-auth-file")
    if all_ and registry is not None:
        raise UsageError("give either --all or a registry")
    way = access(session, authfile=authfile or compat_auth_file)
    if all_:
        session.run(forget_all, way.environ, way.authfile)
        click.echo("Removed login credentials for all registries")
        return
    key = registry_key(registry, way)
    if session.run(forget, key, way.environ, way.authfile):
        click.echo(f"Removed login credentials for {key}")
        return
    other = session.run(find_for, key, way.environ, way.authfile)
    hint = f"there are some in {other.origin}, which `login` does not write" if other is not None else None
    raise UsageError(f"not logged into {key}", hint=hint)
