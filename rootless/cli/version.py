"""`rcontain version`."""

from __future__ import annotations

import platform
import sys

import click
import msgspec

from .. import __version__
from ..oci.platform import Platform
from .command import Command
from .format import render
from .session import Session, pass_session


class VersionFacts(msgspec.Struct, frozen=True, rename="pascal"):
    """What `version` knows."""

    version: str
    python_version: str
    os: str
    os_arch: str


class VersionReport(msgspec.Struct, frozen=True, rename="pascal"):
    """The document of `version --format json`, shaped as Podman's."""

    client: VersionFacts


def facts() -> VersionFacts:
    here = Platform.of("linux", platform.machine())
    python = ".".join(map(str, sys.version_info[:3]))
    return VersionFacts(version=__version__, python_version=python, os=here.os, os_arch=str(here))


@click.command("version", cls=Command, examples=[("rcontain version --format '{{.Client.Version}}'", "")])
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json, or a Go template.")
@pass_session
def version(session: Session, format_: str | None) -> None:
    """Show the versions of rcontain and of what it runs on."""
    known = facts()
    if format_:
        click.echo(render(format_, [VersionReport(known)], single=True), nl=False)
        return
    rows = [
        ("Client:", "rcontain"),
        ("Version:", known.version),
        ("Python Version:", known.python_version),
        ("OS/Arch:", known.os_arch),
    ]
    for title, value in rows:
        click.echo(f"{title:<16} {value}")
