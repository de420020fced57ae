"""`rcontain tags` and `search --list-tags`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kit.registry import Answer, FakeRegistry, Request, fake_registry

from .conftest import CommandLine


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    def rule(request: Request) -> Answer | None:
        if request.path.startswith("/v2/team/demo/tags/list"):
            return Answer(200, b'{"name":"team/demo","tags":["1.0","1.1","latest"]}')
        return None

    with fake_registry("/nonexistent", rule) as fake:
        yield fake


def test_tags(cli: CommandLine, registry: FakeRegistry) -> None:
    name = f"{registry.address}/team/demo"
    assert cli("tags", name).out == "1.0\n1.1\nlatest\n"
    assert cli("tags", "--limit", "2", f"docker://{name}").out == "1.0\n1.1\n"
    shown = cli("search", "--list-tags", "--format", "json", name)
    assert json.loads(shown.out) == [{"Name": name, "Tags": ["1.0", "1.1", "latest"]}]


def test_mistakes(cli: CommandLine, registry: FakeRegistry) -> None:
    for arguments, said in (
        (("tags", f"{registry.address}/team/demo:1"), "leave out its tag"),
        (("tags", f"{registry.address}/other"), "has no image"),
        (("search", "demo"), "rcontain tags REPOSITORY"),
    ):
        result = cli(*arguments)
        assert result.code == 125 and said in result.err, result
