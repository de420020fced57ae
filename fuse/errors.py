"""The error of damaged or impossible layer data."""

from __future__ import annotations


class LayerError(Exception):
    """A layer's index or data is damaged, or holds what a file system cannot hold. Seen through a mount it is EIO."""


class LinkToNothing(LayerError):
    """A hard link of an archive leads to a name that is not there, or not there yet."""
