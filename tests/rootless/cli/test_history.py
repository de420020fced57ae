"""history, image tree, blame and diff."""

from __future__ import annotations

from rootless.image.store import Store
from tests.kit.images import Layout, demo_layers, directory, file, pack, symlink, tar

from .conftest import CommandLine

DEMO = "localhost/demo:latest"


def demo(cli: CommandLine) -> str:
    """The demo image, with a history of four lines for its three layers; its id."""
    lines = [
        {"created_by": "ADD base", "created": "2024-01-02T03:04:05Z"},
        {"created_by": "ENV A=1", "empty_layer": True},
        {"created_by": "RUN   one\t two", "comment": "second"},
        {"created_by": "RUN " + "x" * 80},
    ]
    layout = Layout(cli.settings.data)
    base = [pack(raw) for raw in demo_layers()[:1]]
    layout.image("localhost/base:latest", base)
    layout.image(DEMO, [pack(raw) for raw in demo_layers()], history=lines)
    store = Store(cli.settings.data)
    store.prepare()
    return store.resolve(DEMO).id


def test_history(cli: CommandLine) -> None:
    id = demo(cli)
    heading, *rows = cli.lines("history", DEMO)
    assert heading.split() == ["ID", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert [row.split()[0] for row in rows[:3]] == [id[:12], "<missing>", "<missing>"]
    assert "RUN one two" in rows[1] and rows[1].endswith("second") and "ENV A=1" in rows[2] and " 0B" in rows[2]
    assert "x" * 38 + "..." in rows[0] and "N/A" in rows[0]
    base = Store(cli.settings.data).resolve("base")
    assert rows[3].split()[0] == base.short_id and "ago" in rows[3]
    assert "x" * 80 in cli.lines("image", "history", "--no-trunc", DEMO)[1]
    assert cli.lines("history", "-q", DEMO) == [id[:12], "<missing>", "<missing>", base.short_id]
    assert cli.lines("history", "-H=false", "--format", "{{.Created}} {{.Size}}", DEMO)[0].endswith("17")
    last = cli.json("history", "--format", "json", DEMO)[-1]
    assert last.keys() == {"id", "created", "CreatedBy", "tags", "size", "comment"}
    assert last["tags"] == ["localhost/base:latest"] and last["created"] == "2024-01-02T03:04:05Z"


def test_tree(cli: CommandLine) -> None:
    id = demo(cli)
    lines = cli.lines("image", "tree", DEMO)
    assert lines[:2] == [f"Image ID: {id[:12]}", f"Tags:     [{DEMO}]"] and lines[3] == "Image Layers"
    bottom, middle, top = lines[4:]
    assert bottom.startswith("├── ID: ") and "Top Layer of: [localhost/base:latest]" in bottom and "ADD base" in bottom
    assert "+5 ~1 -0" in middle and middle.endswith("RUN one two")
    assert top.startswith("└── ID: ") and "+2 ~0 -2" in top and f"Top Layer of: [{DEMO}]" in top
    layers = cli.json("image", "tree", "--format", "json", DEMO)
    assert [layer["Deleted"] for layer in layers] == [0, 0, 2] and layers[2]["Size"] == 17
    assert cli.lines("image", "tree", "--no-trunc", DEMO)[6].startswith(f"└── ID: {layers[2]['ID']} ")
    assert cli.lines("image", "tree", "--whatrequires", "base")[3:] == [
        "Images that require it",
        f"└── ID: {id[:12]} Tags: [{DEMO}] Size: " + cli.lines("image", "tree", DEMO)[2].split()[1],
    ]


def test_a_history_that_says_too_little(cli: CommandLine) -> None:
    Layout(cli.settings.data).image(DEMO, [pack(tar([file("a")])), pack(tar([file("b")]))], history=[])
    assert len(cli.lines("image", "tree", DEMO)) == 6
    assert len(cli.lines("history", DEMO)) == 3


def test_blame(cli: CommandLine) -> None:
    demo(cli)

    def said(path: str) -> list[list[str]]:
        return [line.split() for line in cli.lines("image", "blame", DEMO, path)[1:]]

    assert [row[2] for row in said("/srv/removed")] == ["deleted", "added"]
    assert [(row[0], row[2], row[3]) for row in said("etc/motd")] == [("3", "added", "13B")]
    assert [(row[0], row[2]) for row in said("/srv")] == [("2", "changed"), ("1", "added")]
    found = cli.json("image", "blame", "--format", "json", DEMO, "/bin/../etc/./passwd")
    assert [(line["Path"], line["Layer"], line["CreatedBy"]) for line in found] == [("/etc/passwd", 1, "ADD base")]
    result = cli("image", "blame", DEMO, "/nothing")
    assert result.code == 125 and "no layer" in result.err and "/nothing" in result.err


def test_blame_follows_links_on_the_way(cli: CommandLine) -> None:
    layers = [tar([directory("usr"), directory("usr/lib"), file("usr/lib/x"), symlink("lib", "/usr/lib")])]
    layers += [tar([symlink("loop", "loop"), file("usr/lib/y")])]
    Layout(cli.settings.data).image(DEMO, [pack(raw) for raw in layers])
    for path, layer in (("/lib/x", "1"), ("/lib/y", "2"), ("/lib", "1")):
        assert cli.lines("image", "blame", DEMO, path)[1].split()[0] == layer
    assert cli("image", "blame", DEMO, "/loop/x").code == 125


def test_diff(cli: CommandLine) -> None:
    demo(cli)
    assert cli.lines("image", "diff", DEMO) == [
        "C /etc",
        "A /etc/motd",
        "C /srv",
        "C /srv/hidden",
        "A /srv/hidden/new",
        "D /srv/hidden/old",
        "D /srv/removed",
    ]
    assert "A /srv/kept" in cli.lines("image", "diff", DEMO, "base")
    assert "D /srv/kept" in cli.lines("image", "diff", "base", DEMO)
    assert cli.json("image", "diff", "--format", "json", DEMO)["deleted"] == ["/srv/hidden/old", "/srv/removed"]
