"""Reading Go templates: text to a tree. Pure. `template` says what there is of the language.

FormatError is the only error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..errors import UsageError
from .gofunctions import FUNCTIONS

_DEPTH_MAX = 60


class FormatError(UsageError):
    """A template that cannot be read, or that asks for what is not there. `position` is the offset in it."""

    def __init__(self, reason: str, position: int, *, hint: str | None = None) -> None:
        super().__init__(f"cannot use the --format template: {reason}", hint=hint)
        self.position = position


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    value: object
    position: int


@dataclass(frozen=True, slots=True)
class Operand:
    """`start` is "." (the dot), "$name" (a variable), or a pipeline in parentheses; then come fields."""

    start: str | Pipeline
    fields: tuple[tuple[str, int], ...]
    position: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments. Without a function, an operand, and arguments where that is a method."""

    function: str
    arguments: tuple[Literal | Operand | Call, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    commands: tuple[Call, ...]
    variables: tuple[str, ...]
    declares: bool


@dataclass(slots=True)
class Block:
    """An action with a body: if, with or range."""

    keyword: str
    pipeline: Pipeline
    position: int
    body: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Leave:
    keyword: str
    position: int


Node = Text | Pipeline | Block | Leave


_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\.)')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<dot>\.)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<mark>:=|=|\||\(|\)|,)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))|\\(.?)", re.DOTALL
)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int
    spaced: bool


class Parser:
    """Reads one template from the left to the right."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens: list[_Token] = []
        self.at = 0
        self.depth = 0
        self.end = 0

    def parse(self) -> list[Node]:
        root: list[Node] = []
        open_blocks: list[Block] = []
        # else-if is a block in its parent's else; one `end` closes both.
        chained: list[int] = [0]
        target = root
        position = 0
        trim_next = False
        while True:
            start = self.source.find("{{", position)
            text = self.source[position : start if start >= 0 else len(self.source)]
            if trim_next:
                text = text.lstrip()
            if start < 0:
                if text:
                    target.append(Text(text))
                break
            inside = start + 2
            if self.source[inside : inside + 1] == "-" and self.source[inside + 1 : inside + 2].isspace():
                text = text.rstrip()
                inside += 1
            if text:
                target.append(Text(text))
            position, trim_next = self._lex(inside, start)
            if not self.tokens:
                if self.source[start:position].find("/*") < 0:
                    raise FormatError("there is nothing in {{}}", start)
                continue
            first = self.tokens[0]
            word = first.text if first.kind == "word" else ""
            if word in ("if", "with", "range"):
                self.at = 1
                block = Block(word, self._whole_pipeline(allow=word == "range"), start)
                target.append(block)
                open_blocks.append(block)
                chained.append(0)
                if len(open_blocks) > _DEPTH_MAX:
                    raise FormatError("blocks are nested too deeply", start)
                target = block.body
            elif word == "else":
                if not open_blocks or target is not open_blocks[-1].body:
                    raise FormatError("{{else}} has no {{if}}, {{with}} or {{range}}", start)
                target = open_blocks[-1].otherwise
                if len(self.tokens) > 1:
                    keyword = self.tokens[1].text
                    if keyword not in ("if", "with") or open_blocks[-1].keyword == "range":
                        raise FormatError(f"unexpected {keyword!r} after else", self.tokens[1].position)
                    self.at = 2
                    block = Block(keyword, self._whole_pipeline(allow=False), start)
                    target.append(block)
                    open_blocks.append(block)
                    chained[-1] += 1
                    if len(open_blocks) > _DEPTH_MAX:
                        raise FormatError("blocks are nested too deeply", start)
                    target = block.body
            elif word == "end":
                if not open_blocks:
                    raise FormatError("{{end}} has nothing to end", start)
                self._only_one_word()
                for _ in range(chained.pop() + 1):
                    open_blocks.pop()
                if not open_blocks:
                    target = root
                else:
                    block = open_blocks[-1]
                    target = block.otherwise if block.otherwise else block.body
            elif word in ("break", "continue"):
                self._only_one_word()
                if not any(block.keyword == "range" for block in open_blocks):
                    raise FormatError(f"{{{{{word}}}}} is not inside a {{{{range}}}}", start)
                target.append(Leave(word, start))
            elif word in ("define", "template", "block"):
                raise FormatError(f"{{{{{word}}}}} is not supported", start, hint="write the template out in one piece")
            else:
                self.at = 0
                target.append(self._whole_pipeline(allow=False))
        if open_blocks:
            block = open_blocks[-1]
            raise FormatError(f"{{{{{block.keyword}}}}} has no {{{{end}}}}", block.position)
        return root

    def _lex(self, at: int, start: int) -> tuple[int, bool]:
        """Reads the action's tokens. Returns where the text after it begins, and whether that is to be trimmed."""
        self.tokens = []
        source = self.source
        body = len(source) - len(source[at:].lstrip())
        if source.startswith("/*", body):
            end = source.find("*/", body + 2)
            if end < 0:
                raise FormatError("the comment has no end", start)
            rest = re.compile(r"(\s+-)?\}\}").match(source, end + 2)
            if rest is None:
                raise FormatError("a comment must fill its {{ }}", start)
            return rest.end(), rest[1] is not None
        spaced = False
        while True:
            if source.startswith("}}", at):
                self.end = at
                return at + 2, False
            if spaced and source.startswith("-}}", at):
                self.end = at
                return at + 3, True
            if at >= len(source):
                raise FormatError(f"{source[start : start + 20]!r} has no closing }}}}", start)
            found = _TOKEN.match(source, at)
            if found is None:
                raise FormatError(f"unexpected character {source[at]!r}", at)
            kind = found.lastgroup or ""
            if kind != "space":
                self.tokens.append(_Token(kind, found[0], at, spaced))
            spaced = kind == "space"
            at = found.end()

    def _only_one_word(self) -> None:
        if len(self.tokens) > 1:
            raise FormatError(f"unexpected {self.tokens[1].text!r}", self.tokens[1].position)

    def _peek(self) -> _Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def _whole_pipeline(self, *, allow: bool) -> Pipeline:
        pipeline = self._pipeline(two=allow)
        rest = self._peek()
        if rest is not None:
            raise FormatError(f"unexpected {rest.text!r}", rest.position)
        return pipeline

    def _pipeline(self, *, two: bool = False) -> Pipeline:
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise FormatError("parentheses are nested too deeply", self.tokens[self.at - 1].position)
        variables, declares = self._declaration(two)
        commands = [self._command()]
        while (token := self._peek()) is not None and token.text == "|" and token.kind == "mark":
            self.at += 1
            commands.append(self._command())
            if not commands[-1].function:
                raise FormatError("after | there must be a function", commands[-1].position)
        self.depth -= 1
        return Pipeline(tuple(commands), variables, declares)

    def _declaration(self, two: bool) -> tuple[tuple[str, ...], bool]:
        names: list[str] = []
        mark = self.at
        while (token := self._peek()) is not None and token.kind == "variable":
            names.append(token.text)
            self.at += 1
            token = self._peek()
            if token is not None and token.text in (":=", "="):
                self.at += 1
                return tuple(names), token.text == ":="
            if token is None or token.text != "," or not two or len(names) > 1:
                break
            self.at += 1
        self.at = mark
        return (), False

    def _command(self) -> Call:
        token = self._peek()
        if token is None:
            raise FormatError("a value is missing", self.end)
        position = token.position
        if token.kind == "word" and token.text not in ("true", "false", "nil"):
            if token.text not in FUNCTIONS:
                raise FormatError(
                    f"there is no function {token.text!r}", position, hint=f"there are {', '.join(sorted(FUNCTIONS))}"
                )
            self.at += 1
            return Call(token.text, self._arguments(), position)
        operand = self._argument()
        arguments = self._arguments() if isinstance(operand, Operand) and operand.fields else ()
        extra = self._peek()
        if extra is not None and not (extra.kind == "mark" and extra.text in ("|", ")")):
            raise FormatError(f"unexpected {extra.text!r}; only a function takes arguments", extra.position)
        return Call("", (operand, *arguments), position)

    def _arguments(self) -> tuple[Literal | Operand | Call, ...]:
        found: list[Literal | Operand | Call] = []
        while (token := self._peek()) is not None and not (token.kind == "mark" and token.text in ("|", ")")):
            if not token.spaced and token.text != "(":
                raise FormatError(f"a space is missing before {token.text!r}", token.position)
            found.append(self._argument())
        return tuple(found)

    def _argument(self) -> Literal | Operand | Call:
        token = self.tokens[self.at]
        self.at += 1
        start: str | Pipeline
        match token.kind:
            case "string" | "char":
                value = _unquote(token)
                return Literal(ord(value) if token.kind == "char" else value, token.position)
            case "number":
                return Literal(_number(token), token.position)
            case "word":
                if token.text in ("true", "false"):
                    return Literal(token.text == "true", token.position)
                if token.text == "nil":
                    return Literal(None, token.position)
                if token.text in FUNCTIONS:
                    return Call(token.text, (), token.position)
                raise FormatError(f"there is no function {token.text!r}", token.position)
            case "dot":
                return Operand(".", (), token.position)
            case "field":
                return Operand(".", ((token.text[1:], token.position), *self._fields()), token.position)
            case "variable":
                start = token.text
            case _ if token.text == "(":
                start = self._pipeline()
                closing = self._peek()
                if closing is None or closing.text != ")":
                    raise FormatError("the parenthesis is not closed", token.position)
                self.at += 1
            case _:
                raise FormatError(f"unexpected {token.text!r}", token.position)
        return Operand(start, self._fields(), token.position)

    def _fields(self) -> tuple[tuple[str, int], ...]:
        names: list[tuple[str, int]] = []
        while (token := self._peek()) is not None and token.kind == "field" and not token.spaced:
            names.append((token.text[1:], token.position))
            self.at += 1
        return tuple(names)


def _unquote(token: _Token) -> str:
    if token.text[0] == "`":
        return token.text[1:-1]

    def value(found: re.Match[str]) -> str:
        simple, *codes, octal, _ = found.groups()
        if simple:
            return _ESCAPED[simple]
        code = next((int(digits, 16) for digits in codes if digits), int(octal, 8) if octal else -1)
        if code < 0 or code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise FormatError(f"unknown escape {found[0]!r} in {token.text}", token.position + found.start())
        return chr(code)

    return _ESCAPE.sub(value, token.text[1:-1])


def _number(token: _Token) -> int | float:
    text = token.text
    if len(text) > 30:
        raise FormatError("the number is too long", token.position)
    try:
        return int(text, 0) if re.fullmatch(r"[+-]?(0[xX][0-9a-fA-F]+|0|[1-9]\d*)", text) else float(text)
    except ValueError:
        raise FormatError(f"{text!r} is not a number", token.position) from None
