"""Credentials in a command line, masked for its summary. It is read as a shell would, in one pass.

What looks like a secret by its name (`--password X`, `FOO_TOKEN=x`, `"secret": "x"`), by the tool that gets
it (`mysql -pX`), or by its own shape. Better one word too many than a password in the trail; but what is no
secret should stay readable, so a name that says file, path or id is left alone.
"""

import re
from collections.abc import Callable

from hermes_nodes.audit.credentials import (
    BEARER,
    CONTAINERS,
    LOGINS,
    PAIRS,
    PEM,
    PRINTERS,
    READERS,
    SETTERS,
    SHAPES,
    SQL_PASSWORD,
    SQL_STATEMENT,
    TOOLS,
    URL_PASSWORD,
    URL_SIGNATURE,
    WORD_OPTIONS,
    WRAPPERS,
    Kind,
    Options,
    is_from_stdin,
    is_secret,
    may_hold_one,
)

#: What stands in the place of a secret.
MASK = "***"
#: Characters that are looked at. A secret that begins before the summary's cut ends before this one, or is
#: masked from its beginning all the same.
_LOOKED_AT = 8192
#: Quotes within quotes, as in `ssh host "sh -c 'mysql -p…'"`.
_DEPTH = 4

_TOKEN = re.compile(
    r"(?P<word>(?:'[^']*+'|\"(?:[^\"\\]|\\.)*+\"|\\.|[^\s'\"\\;|&<>()]|['\"\\])++)|(?P<end>[;|&\n()<>]++)|\s",
    re.DOTALL,
)
_REDIRECTION = re.compile(r"&?[<>]{1,3}[&|]?")
_PIPE = re.compile(r"(?<!\|)\|&?\Z")
_ASSIGNMENT = re.compile(r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]*+)(?P<sign>\+?=)")
_HEADER = re.compile(
    r"(?P<name>[A-Za-z][\w-]*+)(?P<sign>:\s*(?:(?:Bearer|Basic|Digest|Token)\s+)?)", re.IGNORECASE
)
_GLUED_HEADER = re.compile(r"(?P<flags>-[A-Za-z]{0,4}?H)(?P<header>.*)", re.DOTALL)
_QUOTED_OPTION = re.compile(r"-[\w-]+(?:=|\Z)|-[A-Za-z]{0,4}H[A-Za-z-]+:")
_YAML_KEY = re.compile(r"(?<![\w.-])(?P<name>[\w.-]++):\Z")
_JSON = re.compile(
    r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]*+)(?P<sign>\\?[\"']\s*+:\s*+)"
    r"(?P<value>\\?\"[^\"\\]*+\\?\"?|'[^']*+'?|\[[^\]]*+\]?|(?!true\b|false\b|null\b)[^\s,'\"\\\[\]{}]++)"
)


def mask(text: str) -> str:
    """The command line with its credentials masked, cut somewhere behind a summary's end."""
    text = text[:_LOOKED_AT]
    if not may_hold_one(text):
        return text
    text = PEM.sub(rf"\1{MASK}", text)
    if SQL_STATEMENT.search(text):
        text = SQL_PASSWORD.sub(_masked_in_sql, text)
    text = _Line(text, _DEPTH).masked()
    text = SHAPES.sub(MASK, text)
    text = URL_PASSWORD.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    text = URL_SIGNATURE.sub(rf"\1{MASK}", text)
    return BEARER.sub(rf"\1{MASK}", text)


class _Command:
    """What the words of one command have told so far."""

    def __init__(self, inputs: list[int], printed: list[int]) -> None:
        self.tool = ""
        self.is_first = True  # there was no word yet but variables
        self.runs_another = False
        self.logs_in = False
        self.sets = False
        self.reads = False  # a password, from what stands at `inputs`
        self.inputs = inputs  # what its standard input gets, by places in the output
        self.printed = printed  # what it and those of its group print, in the same way


class _Line:
    """A line of commands, gone through word by word."""

    def __init__(self, text: str, depth: int) -> None:
        self._text = text
        self._depth = depth
        self._out: list[str] = []
        self._next: Callable[[str], str] | None = None  # what is to be done with the next word
        self._command = _Command([], [])
        self._groups = 0
        self._ending = ""  # of a here-document that begins with the next line
        self._until = ""  # of one that is a password

    def masked(self) -> str:
        for token in _TOKEN.finditer(self._text):
            text, kind = token[0], token.lastgroup
            self._out.append(self._word(text) if kind == "word" else text)
            if kind == "end":
                self._sign(text)
        return "".join(self._out)

    # -- between words --

    def _sign(self, sign: str) -> None:
        if not _REDIRECTION.fullmatch(sign):
            self._end_command(sign)
        elif sign == "<<<":
            self._next = self._here_string
        else:
            self._next = self._here_document if sign == "<<" else self._plain

    def _end_command(self, sign: str) -> None:
        ended, self._next = self._command, None
        if "\n" in sign and self._ending:
            self._until, self._ending = self._ending if ended.reads else "", ""
        self._groups = max(0, self._groups + sign.count("(") - sign.count(")"))
        if _PIPE.search(sign):
            self._command = _Command(ended.printed, [])
            return
        inputs = ended.inputs if sign == "(" and ended.is_first else []
        self._command = _Command(inputs, ended.printed if self._groups or ")" in sign else [])

    def _here_string(self, word: str) -> str:
        self._command.inputs.append(len(self._out))
        return MASK if self._command.reads else self._plain(word)

    def _here_document(self, word: str) -> str:
        self._ending = _unquoted(word.removeprefix("-") or "-")[1]
        return word

    def _read_password(self) -> None:
        """Its standard input is one: what was printed into it, or stands behind `<<<`."""
        self._command.reads = True
        for place in self._command.inputs:
            self._out[place] = MASK

    # -- words --

    def _word(self, word: str) -> str:
        if self._until:
            self._until = "" if word == self._until else self._until
            return MASK if self._until else word
        if self._next is not None:
            change, self._next = self._next, None
            return change(word)
        self._learn(word)
        if word[0] == "-" or word in TOOLS.get(self._command.tool, ()):
            return self._option(word)
        if word[1:2] == "-" and word[0] in "'\"":
            quote, inner = _unquoted(word)
            if quote and _QUOTED_OPTION.match(inner):
                return f"{quote}{self._option(inner)}{quote}"
        return self._plain(word)

    def _learn(self, word: str) -> None:
        """What the word says about its command."""
        command, bare = self._command, word.rpartition("/")[2]
        if command.tool in PRINTERS and word not in ("-n", "-e", "-ne", "-en"):
            command.printed.append(len(self._out))
        if bare in _KNOWN:
            self._learn_tool(word, bare)
        elif command.tool == "read" and is_secret(word):
            self._read_password()
        if command.is_first:
            self._groups += word == "{"
            command.is_first = word == "{" or "=" in word
        if word == "}":
            self._groups = max(0, self._groups - 1)
        command.logs_in = command.logs_in or word == "login"
        is_option = word[0] == "-"
        if command.sets and not is_option and "=" not in word and is_secret(word):
            self._next = _whole  # fish's `set -x NAME VALUE`, `npm config set NAME VALUE`
        command.sets = word in SETTERS or (command.sets and is_option)

    def _learn_tool(self, word: str, bare: str) -> None:
        command = self._command
        # A file that is called so is none: /etc/passwd.
        is_program = word == bare or "bin/" in word
        if bare in READERS and is_program and (command.is_first or command.runs_another):
            self._read_password()
        command.runs_another = command.runs_another or bare in WRAPPERS
        if bare in _TOLD_BY:
            command.tool = bare

    def _option(self, word: str) -> str:
        name, equals, value = word.partition("=")
        changed = self._tools_option(name, equals, value)
        if changed is None and ("H" in word or "header" in word):
            changed = self._header_option(word, name, equals, value)
        if changed is not None:
            return changed
        if is_from_stdin(word, self._command.tool):
            self._read_password()
        if len(name) < len("-pw") or not is_secret(name):
            return self._plain(word)
        if equals:
            return f"{name}={MASK}"
        self._next = _whole
        return word

    def _tools_option(self, name: str, equals: str, value: str) -> str | None:
        """An option that is a secret to the tool it is given to."""
        tool = self._command.tool
        options: Options = TOOLS.get(tool, {})
        if self._command.logs_in and tool in LOGINS:
            options = {"-p": "value"}
        for option, kind in options.items():
            change = _CHANGES[kind]
            if name == option and equals:
                return f"{name}={change(value)}"
            is_short = option[1:2] != "-" and option[0] == "-" and tool not in WORD_OPTIONS
            if name == option or (is_short and _is_cluster(name) and name.endswith(option[1:])):
                self._next = change if kind != "attached" else None
                return name
            if is_short and name.startswith(option):
                return option + change(name.removeprefix(option) + equals + value)
        if name == "--user" and equals and tool not in CONTAINERS:
            return f"{name}={_CHANGES[':'](value)}"
        return None

    def _header_option(self, word: str, name: str, equals: str, value: str) -> str | None:
        if name in ("--header", "--proxy-header"):
            if equals:
                header = _masked_header(*_unquoted(value)) if value else None
                return None if header is None else f"{name}={header}"
            self._next = self._header
            return word
        glued = _GLUED_HEADER.match(word)
        if glued is None:
            return None
        if glued["header"]:
            header = _masked_header(*_unquoted(glued["header"]))
            return None if header is None else glued["flags"] + header
        self._next = self._header
        return word

    def _header(self, word: str) -> str:
        """A header, if it is one: `-H` is something else to `sudo`."""
        return (_masked_header(*_unquoted(word)) if word else word) or self._word(word)

    def _plain(self, word: str) -> str:
        if "=" not in word and ":" not in word and word[0] not in "'\"":
            return word  # most are
        quote, inner = _unquoted(word)
        header = _masked_header(quote, inner) if quote or self._command.tool in PAIRS else None
        if header is not None:
            return header
        if word[-1] == ":" and (key := _YAML_KEY.search(word)) and is_secret(key["name"]):
            self._next = _whole
            return word
        for found in _ASSIGNMENT.finditer(inner):
            if is_secret(found["name"]) and found.end() < len(inner) and _is_free(inner, found, quote):
                return f"{quote}{inner[: found.end()]}{MASK}{quote}"
        name, equals, value = inner.partition("=")
        if not quote and equals and value and _unquoted(value)[0]:
            return f"{name}={self._plain(value)}"
        inner = _JSON.sub(_masked_pair, inner)
        if quote and self._depth and any(sign in inner for sign in " \t\n"):
            inner = _Line(inner, self._depth - 1).masked()
        return f"{quote}{inner}{quote}"


#: Words that say something about their command.
_TOLD_BY = {*TOOLS, *LOGINS, *CONTAINERS, *PRINTERS, *PAIRS, "sudo", "read"}
_KNOWN = {*_TOLD_BY, *READERS, *WRAPPERS}


def _is_free(inner: str, found: re.Match[str], quote: str) -> bool:
    """Whether the assignment is all of the word, and not a part of a command in quotes."""
    return not quote or not any(sign in inner[: found.start()] for sign in " \t\n")


def _is_cluster(name: str) -> bool:
    """Whether it is several short options in one word."""
    return re.fullmatch("-[A-Za-z]{2,}", name) is not None


def _unquoted(word: str) -> tuple[str, str]:
    """The quote around all of a word, and what is in it."""
    quote = word[0]
    if (
        quote in "'\""
        and len(word) > 1
        and word[-1] == quote
        and quote not in word[1:-1].replace("\\" + quote, "")
    ):
        return quote, word[1:-1]
    return "", word


def _masked_header(quote: str, inner: str) -> str | None:
    """None if it is no header, or one that holds no secret."""
    header = _HEADER.match(inner)
    if header is None or header.end() == len(inner) or not is_secret(header["name"]):
        return None
    return f"{quote}{header[0]}{MASK}{quote}"


def _masked_pair(found: re.Match[str]) -> str:
    return f"{found['name']}{found['sign']}{MASK}" if is_secret(found["name"]) else found[0]


def _masked_in_sql(found: re.Match[str]) -> str:
    return f"{found['before']}{found['single'] or found['double'] or ''}{MASK}"


def _whole(_: str) -> str:
    return MASK


def _behind(sign: str) -> Callable[[str], str]:
    """Masks what stands behind a sign, which there may be none of."""

    def change(word: str) -> str:
        before, found, _ = word.partition(sign)
        quote = word[:1] if word[:1] in "'\"" and found else ""
        return f"{before}{found}{MASK}{quote}" if found else word

    return change


_CHANGES: dict[Kind, Callable[[str], str]] = {
    "value": _whole,
    "attached": _whole,
    ":": _behind(":"),
    "%": _behind("%"),
    ",": _behind(","),
    "=": _behind("="),
    "pass:": _behind("pass:"),
}
