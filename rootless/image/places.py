"""Places on this machine that hold images: which ones there are, and which one a user means."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rootless.errors import ImageError, UsageError
from rootless.image import dirsource, dockerarchive, layouts
from rootless.image.layouts import Offer
from rootless.image.members import Folder, Members
from rootless.image.spool import plain_file
from rootless.image.store import Store
from rootless.oci.transports import Place, Transport


@asynccontextmanager
async def opened(store: Store, place: Place) -> AsyncIterator[list[Offer]]:
    """The images in a place whose path is absolute, as long as the context lasts."""
    path, scope = place.path, os.path.realpath(place.path)
    if place.kind is Transport.DIR:
        yield [dirsource.offer(Folder(path))]
    elif place.kind is Transport.OCI:
        yield layouts.offers(Folder(path), place.kind, scope)
    else:
        with store.workspace() as space:
            members = Members(await plain_file(path, path, space), path)
            if place.kind is Transport.OCI_ARCHIVE:
                yield layouts.offers(members, place.kind, scope)
            else:
                yield dockerarchive.offers(members, scope)


@asynccontextmanager
async def recognized(store: Store, source: str | int) -> AsyncIterator[list[Offer]]:
    """The images in a file or directory, or what comes through a descriptor, whatever its format is.

    An archive that is both Docker's and a complete layout is read as a layout, which keeps the manifests.
    """
    if isinstance(source, str) and os.path.isdir(source):
        folder = Folder(source)
        scope = os.path.realpath(source)
        if layouts.is_layout(folder):
            yield layouts.offers(folder, Transport.OCI, scope)
        elif dirsource.is_dir(folder):
            yield [dirsource.offer(folder)]
        else:
            raise UsageError(f"{source} is neither an image layout nor a directory with a manifest.json")
        return
    title = source if isinstance(source, str) else "the standard input"
    scope = os.path.realpath(source) if isinstance(source, str) else ""
    with store.workspace() as space:
        members = Members(await plain_file(source, title, space), title)
        if layouts.is_layout(members):
            yield layouts.offers(members, Transport.OCI_ARCHIVE, scope)
        elif dockerarchive.is_docker_archive(members):
            yield dockerarchive.offers(members, scope)
        else:
            raise ImageError(f"{title} is a tar archive without images", hint="`rcontain import` takes file systems")


def chosen(offers: list[Offer], place: Place) -> Offer:
    """The one that a place names. Raises UsageError, with what there is, if that is not exactly one."""
    if place.position is not None:
        if place.position >= len(offers):
            raise UsageError(f"{place} does not exist: there are {len(offers)} images", hint=_listing(offers))
        return offers[place.position]
    if place.reference:
        found = [offer for offer in offers if offer.is_called(place.reference)]
        if not found:
            raise UsageError(f"{place.kind}:{place.path} has no image {place.reference!r}", hint=_listing(offers))
        return found[0]
    if len(offers) != 1:
        raise UsageError(f"{place} holds {len(offers)} images; say which", hint=_listing(offers))
    return offers[0]


def _listing(offers: list[Offer]) -> str:
    shown = [f"@{position} {offer.label[:80]}".rstrip() for position, offer in enumerate(offers[:20])]
    return f"there are: {', '.join(shown)}" if shown else "there is none"
