from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.oci.documents import ExecutionConfig
from rootless.oci.instructions import apply

BEFORE = ExecutionConfig(
    cmd=("old",), env=("PATH=/bin", "A=1"), working_dir="/srv", exposed_ports={"22/tcp": {}}, labels={"a": "b"}
)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ('CMD ["a", "b c"]', "cmd", ("a", "b c")),
        ("cmd echo $HOME && true", "cmd", ("/bin/sh", "-c", "echo $HOME && true")),
        ("CMD [ -f /x ] && y", "cmd", ("/bin/sh", "-c", "[ -f /x ] && y")),
        ("CMD=/bin/bash", "cmd", ("/bin/sh", "-c", "/bin/bash")),
        ("CMD []", "cmd", None),
        ("CMD", "cmd", None),
        ('ENTRYPOINT ["/go"]', "entrypoint", ("/go",)),
        ("ENV A=2", "env", ("PATH=/bin", "A=2")),
        ("ENV B two words", "env", ("PATH=/bin", "A=1", "B=two words")),
        ("ENV B=\"x y\" C='$D' E=a\\ b", "env", ("PATH=/bin", "A=1", "B=x y", "C=$D", "E=a b")),
        ("ENV B=", "env", ("PATH=/bin", "A=1", "B=")),
        ("EXPOSE 80 53/UDP", "exposed_ports", {"22/tcp": {}, "80/tcp": {}, "53/udp": {}}),
        ("EXPOSE 8-9", "exposed_ports", {"22/tcp": {}, "8/tcp": {}, "9/tcp": {}}),
        ("LABEL a=c 'd e'=f", "labels", {"a": "c", "d e": "f"}),
        ("USER 1000:100", "user", "1000:100"),
        ('VOLUME ["/data", "/more"]', "volumes", {"/data": {}, "/more": {}}),
        ("VOLUME /data /more", "volumes", {"/data": {}, "/more": {}}),
        ("WORKDIR /else", "working_dir", "/else"),
        ("WORKDIR sub/../x", "working_dir", "/srv/x"),
        ("STOPSIGNAL SIGINT", "stop_signal", "SIGINT"),
        ("ONBUILD RUN make", "on_build", ("RUN make",)),
    ],
)  # fmt: skip
def test_each_instruction(text: str, field: str, value: object) -> None:
    assert getattr(apply(BEFORE, [text]), field) == value


def test_an_entrypoint_takes_an_older_command_away() -> None:
    assert apply(BEFORE, ["ENTRYPOINT /go"]).cmd is None
    assert apply(BEFORE, ["CMD new", "ENTRYPOINT /go"]).cmd == ("/bin/sh", "-c", "new")


@pytest.mark.parametrize(
    "text",
    [
        "", "FROM x", "RUN make", "HEALTHCHECK NONE", "ENV", "ENV A", 'ENV A="open', "ENV =x", "EXPOSE 0",
        "EXPOSE web", "EXPOSE 9-8",
        "VOLUME data", "USER a b", "ONBUILD FROM x", "CMD [1]", "WORKDIR", "LABEL x=1 y",
    ],
)  # fmt: skip
def test_bad_instructions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        apply(BEFORE, [text])


@given(st.lists(st.text(max_size=60), max_size=3), st.sampled_from(["CMD", "ENV", "LABEL", "VOLUME", "EXPOSE", ""]))
def test_any_text_is_taken_or_refused(texts: list[str], name: str) -> None:
    try:
        apply(BEFORE, [f"{name} {text}" for text in texts])
    except UsageError:
        pass
