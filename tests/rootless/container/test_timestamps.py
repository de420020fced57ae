"""RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rootless.container.timestamps import NEVER, rfc3339


def test_known_times() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000000Z"
    assert rfc3339(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
    assert datetime.fromisoformat(NEVER.replace("Z", "+00:00")).year == 1


@given(st.integers(0, 2**62))
def test_order_is_kept(ns: int) -> None:
    assert rfc3339(ns) < rfc3339(ns + 1)
    since = datetime.fromisoformat(rfc3339(ns)[:26] + "+00:00") - datetime(1970, 1, 1, tzinfo=UTC)
    assert since // timedelta(microseconds=1) == ns // 1000
