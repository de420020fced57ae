"""Go templates: what people write after --format, and that nothing but FormatError comes of the rest."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cli.format import layout, render, to_json
from rootless.cli.gofunctions import FUNCTIONS
from rootless.cli.template import FormatError, View, parse


class Inner(msgspec.Struct, frozen=True, rename="pascal"):
    exit_code: int = 3
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")


class Outer(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = "8f87b41d0e7b09"
    name: str = "web"
    state: Inner = Inner()
    args: tuple[str, ...] = ("-c", "echo hi")
    labels: dict[str, str] = msgspec.field(default_factory=lambda: {"foo": "bar", "a.b/c": "d"})
    nothing: dict[str, str] | None = None
    size: int = 3
    share: float = 0.5


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain text", "plain text"),
        ("{{.Name}}", "web"),
        ("{{ .Name }}", "web"),
        ("{{.State.ExitCode}} {{.State.OOMKilled}}", "3 false"),
        ("{{.ID}} {{.state.exitcode}}", "8f87b41d0e7b09 3"),
        ("{{.Args}} {{.Labels}} {{.Nothing}} {{.Share}}", "[-c echo hi] map[a.b/c:d foo:bar] <no value> 0.5"),
        ("{{.State}}", "{3 false}"),
        ("{{json .Labels}} {{json .Args}}", '{"foo":"bar","a.b/c":"d"} ["-c","echo hi"]'),
        ("{{json .State}}", '{"ExitCode":3,"OOMKilled":false}'),
        ('{{index .Labels "a.b/c"}} {{index .Args 1}} {{index .Labels "x"}}.', "d echo hi ."),
        ("{{.Labels.foo}}{{with .Labels.none}}{{.}}{{else}}-{{end}}", "bar-"),
        ("{{range .Args}}<{{.}}>{{end}}", "<-c><echo hi>"),
        ("{{range $i, $v := .Args}}{{if $i}}, {{end}}{{$v}}{{end}}", "-c, echo hi"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}};{{end}}", "a.b/c=d;foo=bar;"),
        ("{{range $v := .Args}}{{$v}}{{$.Name}}{{end}}", "-cwebecho hiweb"),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ('{{range .Args}}{{if eq . "-c"}}{{continue}}{{end}}{{.}}{{end}}', "echo hi"),
        ("{{range .Args}}{{.}}{{break}}{{end}}", "-c"),
        ("{{if .Nothing}}a{{else if eq .Size 3}}b{{else}}c{{end}}!", "b!"),
        ("{{if .Nothing}}a{{else if eq .Size 4}}b{{else if .Name}}c{{else}}d{{end}}!", "c!"),
        ("{{if and .Name (gt .Size 2) (not .Nothing)}}yes{{end}}", "yes"),
        ('{{if or (eq .Name "a" "b" "web") .Bogus}}yes{{end}}', "yes"),
        ("{{$x := .Name}}{{$x}}{{if true}}{{$x = `y`}}{{end}}{{$x}}", "weby"),
        ("{{with $s := .State}}{{$s.ExitCode}}{{.ExitCode}}{{end}}", "33"),
        ("{{(.State).ExitCode}} {{(index .Args 0) | upper}}", "3 -C"),
        ('{{.Name | upper | printf "%-5s|"}}', "WEB  |"),
        (
            '{{printf "%s-%d %q %v %05d %x %.1f%%" .Name 3 "a" .Args 7 255 0.25}}',
            'web-3 "a" [-c echo hi] 00007 ff 0.2%',
        ),
        ('{{join .Args "+"}} {{split "a,b" ","}} {{lower "AB"}} {{title "a b"}}', "-c+echo hi [a b] ab A B"),
        ("{{truncate .ID 4}} {{slice .ID 0 4}} {{slice .ID 10}} {{pad .Name 1 2}}|", "8f87 8f87 7b09  web  |"),
        ("{{len .Args}} {{len .Labels}} {{len .Name}} {{len .Nothing}}", "2 2 3 0"),
        ('{{println "a" 1}}{{print 1 2 "b" 3}}', "a 1\n1 2b3"),
        ("{{lt 1 2}} {{le 2 2}} {{gt `a` `b`}} {{ge 1.5 1}} {{ne 1 2}}", "true true false true true"),
        ('a {{- " b " -}} c', "a b c"),
        ("a {{/* nothing\n}} */}} b{{- /* x */ -}}   c", "a  bc"),
        (r'{{"tab\tnl\n\x41\u00e9\101"}}', "tab\tnl\nAéA"),
        ("{{true}} {{nil}} {{'a'}} {{0x10}} {{-1}} {{1e3}}", "true <no value> 97 16 -1 1000"),
        ('{{html "<a>"}} {{urlquery "a b&"}}', "&lt;a&gt; a+b%26"),
        ("{{.}}", "{8f87b41d0e7b09 web {3 false} [-c echo hi] map[a.b/c:d foo:bar] <nil> 3 0.5}"),
        ("}} }", "}} }"),
    ],
)
def test_what_people_write(source: str, expected: str) -> None:
    assert parse(source).render(Outer()) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{.Bogus}}", "there is no field .Bogus in Outer; the fields are Id, Name, State"),
        ("{{.Name.Length}}", "there is no field .Length in a string"),
        ("{{.Nothing.X}}", "there is no field .X in nothing"),
        ("{{.Id", "'{{.Id' has no closing }}"),
        ("{{}}", "there is nothing in {{}}"),
        ("{{if}}{{end}}", "a value is missing"),
        ("{{if .Id}}", "{{if}} has no {{end}}"),
        ("{{end}}", "{{end}} has nothing to end"),
        ("{{else}}", "{{else}} has no {{if}}"),
        ("{{if .Id}}{{else}}{{else}}{{end}}", "{{else}} has no {{if}}"),
        ("{{break}}", "{{break}} is not inside a {{range}}"),
        ("{{frobnicate .Id}}", "there is no function 'frobnicate'; there are and, eq"),
        ("{{.Id .Name}}", "a string takes no arguments; only functions do"),
        ("{{`a` .Name}}", "unexpected '.Name'; only a function takes arguments"),
        ("{{. .Name}}", "unexpected '.Name'; only a function takes arguments"),
        ("{{.Id | .Name}}", "after | there must be a function"),
        ("{{.Id |}}", "a value is missing"),
        ("{{(.Id}}", "the parenthesis is not closed"),
        ("{{$x}}", "the variable $x has not been declared"),
        ("{{$x = 1}}", "the variable $x has not been declared"),
        ("{{template `x`}}", "{{template}} is not supported"),
        ("{{len 3}}", "len: 3 has no length"),
        ("{{len}}", "len: wrong number of arguments"),
        ("{{index .Args 9}}", "index: there is no element 9; the list has 2"),
        ("{{eq 1 `a`}}", "eq: 1 and a are of different types"),
        ("{{range .Name}}{{end}}", "range cannot go over a string"),
        ("{{upper 3}}", "upper: 3 is not a string"),
        ("{{`open}}", "unexpected character '`'"),
        ("{{# }}", "unexpected character '#'"),
        ("{{/* }}", "the comment has no end"),
        (r'{{"\q"}}', r"unknown escape '\\q'"),
        ('{{printf "%99999d" 1}}', "printf: the width in '%99999d' is more than 10000"),
        ("{{" + "(" * 200 + ".Id" + ")" * 200 + "}}", "nested too deeply"),
        ("{{if .Id}}" * 200 + "{{end}}" * 200, "nested too deeply"),
        ("{{12345678901234567890123456789012345}}", "the number is too long"),
    ],
)
def test_what_is_wrong_is_said(source: str, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(source).render(Outer())
    assert str(caught.value).startswith(f"cannot use the --format template: {reason}") or reason in str(caught.value)


WORDS = """{{ }} {{- -}} /* */ . .Name .State .ExitCode .Labels .Args $x $ := = | ( ) , if else end range with break
    eq index json printf len slice join split print and or not lt truncate pad title nil true "%d%s" " ` 'a' 0 1 -3
    2.5 1e999 x"""
PIECES = st.sampled_from([*re.findall(r"\S+", WORDS), " ", "{{- ", " -}}"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(PIECES, max_size=20).map(" ".join) | st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
def test_nothing_but_format_error(source: str) -> None:
    try:
        template = parse(source)
        template.headings({})
        template.render(Outer())
    except FormatError as error:
        assert str(error).startswith("cannot use the --format template: ")


CALLS = st.lists(
    st.tuples(st.sampled_from(sorted(FUNCTIONS)), st.lists(st.sampled_from(["$a", "$b", "$c"]), max_size=4)), max_size=3
)


@given(CALLS, documents, documents, documents)
def test_functions_raise_nothing_but_format_error(calls: list[tuple[str, list[str]]], a: Any, b: Any, c: Any) -> None:
    source = "{{$a := .a}}{{$b := .b}}{{$c := .c}}" + "".join(
        f"{{{{{name} {' '.join(arguments)}}}}}" for name, arguments in calls
    )
    try:
        parse(source).render({"a": a, "b": b, "c": c})
    except FormatError:
        pass  # the arguments did not fit


@given(st.text(st.characters(blacklist_characters="{")))
def test_text_without_actions_stays(text: str) -> None:
    assert parse(text).render(None) == text


@given(documents.filter(lambda value: "NaN" not in repr(value)))
def test_json_comes_back(document: Any) -> None:
    text = parse("{{json .}}").render(document)
    back = json.loads(text)
    assert json.loads(to_json(back)) == back


@given(st.lists(st.text(string.printable, max_size=8), max_size=6))
def test_range_is_a_loop(items: list[str]) -> None:
    assert parse("{{range .}}{{.}}{{end}}").render(items) == "".join(items)
    assert parse("{{range $i, $_ := .}}{{$i}},{{end}}").render(items) == "".join(f"{n}," for n in range(len(items)))
    assert parse('{{join . ""}}').render(items) == "".join(items)


class TestRender:
    values = (Outer(), Outer(name="b", args=()))

    def test_one_line_each(self) -> None:
        assert render("{{.Name}}", self.values) == "web\nb\n"
        assert render("{{println .Name}}", self.values) == "web\nb\n"
        assert render(r"{{.Name}}\t{{.Size}}", self.values) == "web\t3\nb\t3\n"
        assert render("{{range .}}{{.Name}} {{end}}", self.values) == "web b \n"
        assert render("{{.Name}}", ()) == ""

    def test_json(self) -> None:
        assert json.loads(render("json", self.values))[1]["Name"] == "b"
        assert json.loads(render(" json ", self.values[:1], single=True))["Name"] == "web"
        assert render("json", ()) == "[]\n"

    def test_tables(self) -> None:
        titles = {"ID": "CONTAINER ID"}
        default = r"table {{.ID}}\t{{.Name}}"
        expected = "CONTAINER ID    NAME\n8f87b41d0e7b09  web\n8f87b41d0e7b09  b\n"
        assert render(None, self.values, default=default, titles=titles) == expected
        assert render("table", self.values, default=default, titles=titles) == expected
        assert render(None, self.values, default=default, heading=False) == expected.partition("\n")[2]
        assert render(r"table{{.Name}}\t{{upper .Name}}", self.values[:1]) == "NAME        NAME\nweb         WEB\n"
        every = r"table {{.RunningFor}}\t{{if .Size}}{{.Size}}{{end}}\t{{range .Args}}{{.}}{{end}}\t{{json .State.X}}"
        assert parse(every.removeprefix("table ").replace("\\t", "|")).headings({}) == "RUNNING FOR|SIZE|ARGS|X"

    def test_a_word_that_begins_with_table_is_text(self) -> None:
        assert render("tables {{.Name}}", self.values[:1]) == "tables web\n"

    def test_views(self) -> None:
        view = View(Outer(), {"Name": "shown", "Extra": 1})
        assert render("{{.Name}} {{.extra}} {{.Size}}", [view]) == "shown 1 3\n"
        assert json.loads(render("{{json .}}", [view]))["Name"] == "web"
        assert json.loads(render("json", [view]))[0]["Name"] == "web"

    def test_undecodable_bytes_are_json_all_the_same(self) -> None:
        assert to_json(["a\udcff"]) == '["a\ufffd"]'


def test_layout_is_podmans() -> None:
    rows = [["REPOSITORY", "TAG", "SIZE"], ["localhost/demo", "1", "3.99 MB"]]
    assert layout(rows) == "REPOSITORY      TAG         SIZE\nlocalhost/demo  1           3.99 MB\n"
    assert layout([]) == ""
    assert layout([["a\x1b[1m\n"]]) == "a\\x1b[1m\\n\n"
