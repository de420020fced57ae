"""From what a user typed to an image in the store: a name in the store, on a registry, or a place in files."""

from __future__ import annotations

import re
from enum import StrEnum

from rootless.errors import ImageError, RegistryError, UsageError
from rootless.image.access import Access
from rootless.image.connection import Connection
from rootless.image.locations import Locations
from rootless.image.lookup import ImageNotFound
from rootless.image.model import Derive, Image
from rootless.image.places import chosen, opened
from rootless.image.policy import Policy
from rootless.image.progress import PullProgress, Quiet
from rootless.image.pull import pull, take
from rootless.image.registry import Registry
from rootless.image.shortnames import Choose, local_names
from rootless.image.store import Store
from rootless.image.tags import list_tags
from rootless.oci.platform import Platform
from rootless.oci.reference import is_bare
from rootless.oci.transports import Place, Transport, parse

# Tags of signatures and other things that belong to an image (cosign, "Tag-based discovery").
_ATTACHED = re.compile(r"sha(256|512)-[0-9a-f]{64,128}(\.[a-z]+)?")


class PullPolicy(StrEnum):
    """When `run` and `create` ask the registry (podman-run(1), `--pull`)."""

    ALWAYS = "always"
    MISSING = "missing"
    NEVER = "never"
    NEWER = "newer"


async def obtain(
    store: Store,
    text: str,
    *,
    directory: str = "/",
    policy: PullPolicy = PullPolicy.MISSING,
    platform: Platform | None = None,
    access: Access | None = None,
    choose: Choose | None = None,
    progress: PullProgress | None = None,
    derive: Derive = Derive.INDEX,
    squash: bool = False,
) -> Image:
    """The image that `text` names, from the store or from where it is, as `policy` says.

    An image in files is looked at each time: what of it is in the store already is not copied again. Raises
    ImageNotFound with NEVER, and what `fetch` raises. With NEWER an unreachable registry does not matter while the
    store has the image.
    """
    access = access or Access()
    place = parse(text)
    if place.kind is not Transport.DOCKER and policy is PullPolicy.NEVER:
        raise UsageError(f"{text} is not in the store, and --pull=never forbids to look at it")
    if place.kind is Transport.DOCKER:
        local = _local(store, place.reference, policy, platform, access)
        if local is not None and policy is PullPolicy.MISSING:
            return local
        if local is not None and not _is_name(local, place.reference):
            return local  # an ID: no registry has anything newer
        if local is not None and not await _is_outdated(store, place.reference, local, access):
            return local
    return await fetch(
        store,
        text,
        directory=directory,
        platform=platform,
        access=access,
        choose=choose,
        progress=progress,
        derive=derive,
        squash=squash,
    )


async def fetch(
    store: Store,
    text: str,
    *,
    directory: str = "/",
    platform: Platform | None = None,
    access: Access | None = None,
    choose: Choose | None = None,
    progress: PullProgress | None = None,
    derive: Derive = Derive.INDEX,
    squash: bool = False,
) -> Image:
    """Bring the image that `text` names on a registry, or in files, into the store.

    Relative paths begin in `directory`. A short name is looked for as registries.conf says; `choose` asks the user
    about it. Raises RegistryError, ImageError, HostError, UsageError.
    """
    access = access or Access()
    place = parse(text).at(directory)
    if place.kind is not Transport.DOCKER:
        return await _from_files(store, place, platform, access, progress or Quiet(), derive, squash)
    locations = Locations.load(access.environ)
    candidates = locations.names(place.reference, choose)
    failures: list[RegistryError | ImageError] = []
    for reference in candidates:
        try:
            image = await pull(
                store, reference, access=access, platform=platform, progress=progress, derive=derive, squash=squash
            )
        except (RegistryError, ImageError) as error:
            failures.append(error)
        else:
            locations.pulled(place.reference, reference)
            return image
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(f"{reference}: {error.message}" for reference, error in zip(candidates, failures, strict=True))
    raise type(failures[-1])(f"{place.reference} was found nowhere: {reasons}")


async def tagged(text: str, access: Access) -> list[str]:
    """All images of the repository that `text` names, as names for `fetch`; what is attached to others is left out.

    Raises UsageError for a name with a tag, RegistryError, ImageError.
    """
    place = parse(text)
    name = place.reference
    if place.kind is not Transport.DOCKER or not is_bare(name):
        raise UsageError(f"{text} is not a repository on a registry", hint="leave out the tag, or --all-tags")
    locations = Locations.load(access.environ)
    failures: list[RegistryError] = []
    for reference in locations.names(name):
        # Mirrors come first, what is complete last.
        location = locations.of(reference)[-1]
        try:
            async with Connection(reference, access, location=location) as connection:
                tags = await list_tags(connection)
        except RegistryError as error:
            failures.append(error)
        else:
            return [f"{reference.name}:{tag}" for tag in tags if not _ATTACHED.fullmatch(tag)]
    raise failures[-1]


async def _from_files(
    store: Store,
    place: Place,
    platform: Platform | None,
    access: Access,
    report: PullProgress,
    derive: Derive,
    squash: bool,
) -> Image:
    report.message(f"Pulling {place}")
    async with opened(store, place) as offers:
        offer = chosen(offers, place)
        return await take(
            store,
            offer.source,
            policy=Policy.load(access.environ),
            names=offer.names,
            platform=platform,
            progress=report,
            derive=derive,
            squash=squash,
        )


def _local(store: Store, text: str, policy: PullPolicy, platform: Platform | None, access: Access) -> Image | None:
    """What the store has under this name. Raises ImageNotFound and ImageError only where nothing can be pulled."""
    if policy is PullPolicy.ALWAYS:
        return None
    try:
        local = _resolve(store, text, access)
    except ImageNotFound:
        if policy is PullPolicy.NEVER:
            raise
        return None
    except ImageError:
        if policy is PullPolicy.NEVER:
            raise
        return None  # damaged: pulling repairs it
    if platform is not None and not platform.matches(local.config.platform):
        if policy is PullPolicy.NEVER:
            raise ImageNotFound(f"image {text} is in the store for {local.config.platform} only, not for {platform}")
        return None
    return local


def _resolve(store: Store, text: str, access: Access) -> Image:
    """What the store has under this name, or under one that registries.conf says it may mean."""
    try:
        return store.resolve(text)
    except ImageNotFound:
        for reference in local_names(text, access.environ):
            if (image := store.find(reference)) is not None:
                return image
        raise


async def _is_outdated(store: Store, text: str, local: Image, access: Access) -> bool:
    """Whether a registry has something else under the name by which the store has it."""
    locations = Locations.load(access.environ)
    for reference in locations.names(text):
        if str(reference) in local.names:
            for location in locations.of(reference):
                try:
                    async with Registry(reference, access, location=location) as registry:
                        return await registry.digest(location.reference.version) != store.source(reference)
                except RegistryError:
                    continue
    return False


def _is_name(image: Image, text: str) -> bool:
    return not image.id.startswith(text.removeprefix("sha256:"))
