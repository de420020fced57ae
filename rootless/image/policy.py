"""Whom to trust: whether an image may be stored, as policy.json says (containers-policy.json(5))."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from rootless.image.source import Attachment, Identity
from rootless.oci.digest import Digest


class Policy:
    """The rules of one policy.json."""

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Policy:
        """The policy as it is now; without a file everything is accepted. Raises UsageError for a malformed one."""
        return cls()

    async def check(
        self, identity: Identity, digest: Digest, signatures: Callable[[], Awaitable[Sequence[Attachment]]]
    ) -> None:
        """Return if the image with this manifest digest is accepted; raises ImageError if it is not.

        To be asked for the manifest of the one image that is to be stored, before anything else of it is read.
        `signatures` is called only where a rule needs them.
        """
