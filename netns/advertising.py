"""Router advertisements that nobody asked for (RFC 4861 section 6.2.4).

A guest's kernel asks for routers when its interface comes up, and not again: a default route lives for as long as the
last advertisement said, so there has to be a next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netns.driver import Driver

SECONDS = 600.0  # MaxRtrAdvInterval's default; the lifetime of the route is three times as long


class Advertiser:
    """Advertises `driver`'s router from when its loop runs."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        driver.call_later(0.0, self._advertise)

    def _advertise(self) -> None:
        self._driver.stack.advertise()
        self._driver.call_later(SECONDS, self._advertise)
