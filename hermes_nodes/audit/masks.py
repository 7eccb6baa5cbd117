"""Credentials in a command line, masked for its summary. It is read as a shell would, in one pass.

What looks like a secret by its name (`--password X`, `FOO_TOKEN=x`, `"secret": "x"`), by the tool that gets
it (`mysql -pX`), or by its own shape. Better one word too many than a password in the trail; but what is no
secret should stay readable, so a name that says file, path or id is left alone.
"""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Literal

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
_NAME_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_ASSIGNMENT = re.compile(r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]*+)(?P<sign>=)")
_HEADER = re.compile(
    r"(?P<name>[A-Za-z][\w-]*+)(?P<sign>:\s*(?:(?:Bearer|Basic|Digest|Token)\s+)?)", re.IGNORECASE
)
_JSON = re.compile(
    r"(?<![\w.-])(?P<name>[A-Za-z_][\w.-]*+)(?P<sign>\\?[\"']\s*+:\s*+)"
    r"(?P<value>\\?\"[^\"\\]*+\\?\"?|'[^']*+'?)"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: A word of a name that says secret; the first row also at the end of one, as in PGPASSWORD.
_ENDINGS = ("password", "passwd", "passphrase", "passcode", "passwort", "secret", "token")
_SECRET_WORDS = _words(
    "pass pw pwd apikey credential credentials creds bearer authorization cookie secretkey accesskey "
    "privatekey"
)
_KEY_BEFORE = _words("api access secret private signing encryption master account storage shared")
#: A name that ends so is about a secret, and its value is none.
_NO_VALUE = _words(
    "file path name id ids url uri dir env ttl type expiry expires age length len policy count timeout min "
    "max stdin prompt hash method sock socket store helper provider version mode only"
)
_WORKING_DIRECTORIES = {"PWD", "OLDPWD"}

#: What an option's value is: all of it a secret; only where it is attached; the part behind a sign.
_Kind = Literal["value", "attached", ":", "%", ","]
_Options = Mapping[str, _Kind]


def _tools() -> dict[str, _Options]:
    table: list[tuple[str, _Options]] = [
        ("mysql mysqldump mysqladmin mysqlimport mariadb mariadb-dump 7z 7za 7zz", {"-p": "attached"}),
        ("sshpass mongo mongosh mongodump mongorestore cqlsh useradd usermod twine", {"-p": "value"}),
        ("zip unzip sqlcmd bcp ipmitool mosquitto_pub mosquitto_sub", {"-P": "value"}),
        ("ldapsearch ldapadd ldapmodify ldapdelete ldapwhoami ldappasswd", {"-w": "value"}),
        ("snmpget snmpset snmpwalk snmpbulkwalk", {"-c": "value", "-A": "value", "-X": "value"}),
        ("curl", {"-u": ":", "-U": ":", "--user": ":", "--proxy-user": ":", "-b": "value"}),
        ("http https", {"-a": ":", "--auth": ":"}),
        ("redis-cli", {"-a": "value"}),
        ("openssl", {"-k": "value", "-K": "value"}),
        ("smbclient rpcclient", {"-U": "%", "--user": "%"}),
        ("lftp", {"-u": ","}),
    ]
    return {name: options for names, options in table for name in names.split()}


_TOOLS = _tools()
#: `-p` is a port to these, unless they log in.
_LOGINS = _words("docker podman nerdctl helm az oc oras crane skopeo buildah")
#: These read a password that is piped to them.
_READERS = {"chpasswd": "", "sudo": "-S", "docker": "--password-stdin", "passwd": "--stdin"}

_LONG = r"[A-Za-z0-9_-]"
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{20,}+"
    rf"|gl(?:pat|dt|rt|ptt|cbt)-{_LONG}{{16,}}+|xox[abeoprs]-{_LONG}{{10,}}+|xapp-{_LONG}{{10,}}+"
    rf"|sk-(?={_LONG}*+(?<=[0-9]|[A-Z])|{_LONG}*?[0-9]){_LONG}{{16,}}+|[sr]k_(?:live|test)_[A-Za-z0-9]{{10,}}+"
    rf"|eyJ{_LONG}{{8,}}+\.{_LONG}++(?:\.{_LONG}*+)?|hn[to]_{_LONG}{{16,}}+|AIza{_LONG}{{30,}}+"
    rf"|ya29\.{_LONG}{{16,}}+|npm_[A-Za-z0-9]{{30,}}+|pypi-Ag{_LONG}{{16,}}+|hf_[A-Za-z0-9]{{30,}}+"
    rf"|hv[sb]\.{_LONG}{{20,}}+|dop_v1_[a-f0-9]{{32,}}+|dckr_pat_{_LONG}{{16,}}+|shp(?:at|ss)_[a-fA-F0-9]{{16,}}+"
    rf"|SG\.{_LONG}{{16,}}+\.{_LONG}++|gAAAAA{_LONG}{{60,}}+=*|AGE-SECRET-KEY-1[A-Z0-9]++)"
)
_PEM = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----).*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL
)
_URL_PASSWORD = re.compile(r"(://[^\s/:@'\"]*+:)[^\s/@'\"]++(?=@)|(://)[^\s/:@'\"]{20,}+(?=@)")
_BEARER = re.compile(r"\b(Bearer\s+)(?=[A-Za-z._~+/=-]*+[0-9])[A-Za-z0-9._~+/=-]{8,}+", re.IGNORECASE)
_OPENSSL_PASS = re.compile(r"(?<![\w-])(pass:)[^\s'\"]++")


_SHAPE_HINTS = _words(
    "akia asia ghp_ gho_ ghu_ ghs_ ghr_ github_pat glpat- gldt- glrt- glptt- glcbt- xox xapp- sk- sk_ rk_ "
    "eyj hnt_ hno_ aiza ya29. npm_ pypi- hf_ hvs. hvb. dop_v1 dckr_ shpat_ shpss_ sg. gaaaaa age-secret"
)


def _hints() -> tuple[str, ...]:
    """One of these is in every line that has something to mask; most lines have none, and are done with."""
    others = {"key", "auth", "login", "sudo", "://", "-----begin"}
    found = {*_ENDINGS, *_SECRET_WORDS, *_TOOLS, *_SHAPE_HINTS, *others}
    return tuple(one for one in found if not any(other in one for other in found - {one}))


_HINTS = _hints()


def mask(text: str) -> str:
    """The command line with its credentials masked, cut somewhere behind a summary's end."""
    text = text[:_LOOKED_AT]
    if not _may_hold_secrets(text.lower()):
        return text
    text = _PEM.sub(rf"\1{MASK}", text)
    text = _Line(text, _DEPTH).masked()
    text = _SHAPES.sub(MASK, text)
    text = _URL_PASSWORD.sub(lambda found: f"{found[1] or found[2]}{MASK}", text)
    return _BEARER.sub(rf"\1{MASK}", text)


def _may_hold_secrets(lowered: str) -> bool:
    for hint in _HINTS:  # noqa: SIM110 - `any` takes three times as long, for every call
        if hint in lowered:
            return True
    return False


def is_secret(name: str) -> bool:
    """Whether a variable, an option or a key of that name holds a secret."""
    words = [word.lower() for word in _NAME_WORDS.findall(name)]
    if not words or words[-1] in _NO_VALUE or name in _WORKING_DIRECTORIES:
        return False
    if words[-1] == "auth" or any(word in _SECRET_WORDS or word.endswith(_ENDINGS) for word in words):
        return True
    return any(two == "key" and one in _KEY_BEFORE for one, two in pairwise(words))


class _Line:
    """A line of commands, gone through word by word."""

    def __init__(self, text: str, depth: int) -> None:
        self._text = text
        self._depth = depth
        self._out: list[str] = []
        self._next: Callable[[str], str] | None = None  # what is to be done with the next word
        self._tool = ""
        self._logs_in = False
        self._sets = False
        self._printed: list[int] = []  # what an `echo` prints, by its places in the output
        self._piped: list[int] = []

    def masked(self) -> str:
        for token in _TOKEN.finditer(self._text):
            if token["word"] is not None:
                self._out.append(self._word(token[0]))
                continue
            self._out.append(token[0])
            if token["end"]:
                self._end_command(token[0])
        return "".join(self._out)

    def _end_command(self, sign: str) -> None:
        self._piped = self._printed if sign == "|" else []
        self._printed, self._tool, self._logs_in, self._next = [], "", False, None

    def _word(self, word: str) -> str:
        if self._next is not None:
            change, self._next = self._next, None
            return change(word)
        bare = word.rpartition("/")[2]
        self._read_from_pipe(bare)
        if self._tool in ("echo", "printf"):
            self._printed.append(len(self._out))
        if bare in _TOOLS or bare in _LOGINS or bare in ("echo", "printf") or bare in _READERS:
            self._tool = bare
        self._logs_in = self._logs_in or word == "login"
        sets, self._sets = self._sets, word == "set"
        if sets and is_secret(word):  # `npm config set NAME VALUE`
            self._next = lambda _: MASK
        return self._option(word) if word.startswith("-") else self._plain(word)

    def _read_from_pipe(self, word: str) -> None:
        """Who reads a password from the pipe gets what was printed before it."""
        sign = _READERS.get(self._tool)
        if word == "chpasswd" or (sign and word == sign):
            for place in self._piped:
                self._out[place] = MASK

    def _option(self, word: str) -> str:
        name, equals, value = word.partition("=")
        changed = self._tools_option(name, equals, value)
        if changed is not None:
            return changed
        if not is_secret(name):
            return self._plain(word)
        if equals:
            return f"{name}={MASK}"
        self._next = lambda _: MASK
        return word

    def _tools_option(self, name: str, equals: str, value: str) -> str | None:
        """An option that is a secret to the tool it is given to."""
        options = _TOOLS.get(self._tool, {})
        if self._tool in _LOGINS and self._logs_in:
            options = {"-p": "value"}
        for option, kind in options.items():
            change = _CHANGES[kind]
            if name == option and equals:
                return f"{name}={change(value)}"
            is_short = not option.startswith("--")
            if name == option or (is_short and _is_cluster(name) and name.endswith(option[1:])):
                self._next = change if kind != "attached" else None
                return name
            if is_short and name.startswith(option):
                return option + change(name.removeprefix(option) + equals + value)
        return None

    def _plain(self, word: str) -> str:
        quote, inner = _unquoted(word)
        header = _HEADER.match(inner) if quote else None
        if header and is_secret(header["name"]) and header.end() < len(inner):
            return f"{quote}{header[0]}{MASK}{quote}"
        if re.fullmatch(r"[\w.-]+:", word) and is_secret(word[:-1]):
            self._next = lambda _: MASK
            return word
        for found in _ASSIGNMENT.finditer(inner):
            if is_secret(found["name"]) and found.end() < len(inner) and _is_free(inner, found, quote):
                return f"{quote}{inner[: found.end()]}{MASK}{quote}"
        inner = _JSON.sub(_masked_pair, inner)
        if quote and self._depth and any(sign in inner for sign in " \t\n"):
            inner = _Line(inner, self._depth - 1).masked()
        if self._tool == "openssl":
            inner = _OPENSSL_PASS.sub(rf"\1{MASK}", inner)
        return f"{quote}{inner}{quote}"


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


def _masked_pair(found: re.Match[str]) -> str:
    return f"{found['name']}{found['sign']}{MASK}" if is_secret(found["name"]) else found[0]


def _behind(sign: str) -> Callable[[str], str]:
    """Masks what stands behind a sign, which there may be none of."""

    def change(word: str) -> str:
        before, found, _ = word.partition(sign)
        quote = word[:1] if word[:1] in "'\"" and found else ""
        return f"{before}{found}{MASK}{quote}" if found else word

    return change


_CHANGES: dict[_Kind, Callable[[str], str]] = {
    "value": lambda _: MASK,
    "attached": lambda _: MASK,
    ":": _behind(":"),
    "%": _behind("%"),
    ",": _behind(","),
}
