"""Every behaviour of a mount is tested through both adapters."""

from __future__ import annotations

import pytest

from fuse.server import Adapter


@pytest.fixture(params=["device", "pyfuse3"])
def adapter(request: pytest.FixtureRequest) -> Adapter:
    chosen: Adapter = request.param
    return chosen
