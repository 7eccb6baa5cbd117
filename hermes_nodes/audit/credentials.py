"""What tells a credential in a command line: its name, the tool that gets it, its shape."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# -- names --

_NAME_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: A word of a name that says secret.
_SECRET_WORDS = _words("pw credential credentials creds bearer authorization cookie")
#: A key that is kept secret; others are of a table, of a keyboard, or public.
_KEY_BEFORE = _words("api access secret private signing encryption master account storage shared auth")
#: The same as the end of a word, where names are run together: PGPASSWORD, DBPASS, MYAPIKEY.
_ENDINGS = (
    "password", "passwd", "passphrase", "passcode", "passwort", "secret", "token", "pass", "pwd",
    *(f"{word}key" for word in sorted(_KEY_BEFORE)),
)  # fmt: skip
#: The same anywhere in a word, as in PASSWORDPROD.
_ANYWHERE = ("password", "passwd", "passphrase")
#: Words that end so, and are about something else.
_ORDINARY = _words(
    "bypass compass encompass trespass surpass overpass underpass allpass bandpass highpass lowpass "
    "multipass onepass twopass nopass nopasswd nopassword"
)
#: A name that ends so is about a secret, and its value is none.
_NO_VALUE = _words(
    "file path name id ids url uri dir env ttl type expiry expires age length len policy count timeout min "
    "max stdin prompt hash method sock socket store helper provider version mode only less fd"
)
_NO_VALUE_ENDINGS = tuple(_NO_VALUE)
_WORKING_DIRECTORIES = {"PWD", "OLDPWD"}


def is_secret(name: str) -> bool:
    """Whether a variable, an option or a key of that name holds a secret."""
    words = [word.lower() for word in _NAME_WORDS.findall(name)]
    if not words or words[-1] in _NO_VALUE or name in _WORKING_DIRECTORIES:
        return False
    if words[-1] == "auth" or any(map(_says_secret, words)):
        return True
    return any(two == "key" and one in _KEY_BEFORE for one, two in pairwise(words))


def _says_secret(word: str) -> bool:
    if word.endswith(_ENDINGS):
        return word not in _ORDINARY
    if word in _SECRET_WORDS:
        return True
    is_inside = "pass" in word and any(one in word for one in _ANYWHERE)
    return is_inside and not word.endswith(_NO_VALUE_ENDINGS)


# -- tools --

#: What an option's value is: all of it a secret; only where it is attached; the part behind a sign.
Kind = Literal["value", "attached", ":", "%", ",", "=", "pass:"]
Options = Mapping[str, Kind]


def _tools() -> dict[str, Options]:
    table: list[tuple[str, Options]] = [
        ("mysql mysqldump mysqladmin mysqlimport mariadb mariadb-dump 7z 7za 7zz", {"-p": "attached"}),
        ("sshpass mongo mongosh mongodump mongorestore cqlsh useradd usermod twine", {"-p": "value"}),
        ("zip unzip sqlcmd bcp ipmitool mosquitto_pub mosquitto_sub", {"-P": "value"}),
        ("ldapsearch ldapadd ldapmodify ldapdelete ldapwhoami ldappasswd", {"-w": "value"}),
        ("snmpget snmpset snmpwalk snmpbulkwalk", {"-c": "value", "-A": "value", "-X": "value"}),
        ("curl curlie", {"-u": ":", "-U": ":", "--user": ":", "--proxy-user": ":", "-b": "value"}),
        ("http https xh", {"-a": ":", "--auth": ":"}),
        ("ab", {"-A": ":", "-P": ":"}),
        ("redis-cli", {"-a": "value"}),
        ("openssl", {"-k": "value", "-K": "value", "-pass": "pass:",
                     "-passin": "pass:", "-passout": "pass:"}),
        ("ssh-keygen", {"-N": "value", "-P": "value"}),
        ("smbclient rpcclient", {"-U": "%", "--user": "%"}),
        ("lftp", {"-u": ","}),
        ("kubectl oc", {"--from-literal": "="}),
        ("nmcli", {"password": "value", "wifi-sec.psk": "value", "802-11-wireless-security.psk": "value"}),
    ]  # fmt: skip
    return {name: options for names, options in table for name in names.split()}


TOOLS = _tools()
#: Their options are words behind one dash, never letters in a cluster.
WORD_OPTIONS = _words("openssl")
#: `-p` is a port to these, unless they log in.
LOGINS = _words("docker podman nerdctl helm az oc oras crane skopeo buildah")
#: `--user` is ids of a user and a group to these.
CONTAINERS = _words("docker podman nerdctl buildah docker-compose podman-compose singularity")
#: These print what their words are.
PRINTERS = _words("echo printf yes")
#: These print or send `name:value` words without quotes.
PAIRS = _words("echo printf http https xh")
#: These read a password from their standard input.
READERS = _words(
    "chpasswd chgpasswd passwd smbpasswd pdbedit htpasswd mkpasswd vncpasswd cryptsetup kinit su"
)
#: The command that these run is among their words.
WRAPPERS = _words("sudo doas env exec command nohup nice time timeout xargs docker podman kubectl ssh")
#: The word behind one of these and its options is a name, and the next one its value.
SETTERS = _words("set setenv setx config")
_FROM_STDIN = re.compile(
    r"--(?:[a-z-]*(?:pass[a-z]*|token|secret|key)-(?:from-)?(?:stdin|fd)|with-token)(?:=.*)?"
)
_SUDO_FROM_STDIN = re.compile(r"-[A-Za-z]*S|--stdin")


def is_from_stdin(option: str, tool: str) -> bool:
    """Whether an option says that a secret comes by the standard input."""
    if tool == "sudo" and _SUDO_FROM_STDIN.fullmatch(option):
        return True
    return option.startswith("--") and _FROM_STDIN.fullmatch(option) is not None


# -- SQL --

_QUOTED = r"""(?:(?P<single>'"'"'|'\\''|\\*')[^']*+|(?P<double>\\*")[^"]*+)"""
#: Whether it is about users at all; `password` and a word in quotes is in many a text.
SQL_STATEMENT = re.compile(
    r"\b(?:(?:alter|create)\s++(?:user|role|login|database|group)|set\s++password|grant|identified)\b",
    re.IGNORECASE,
)
SQL_PASSWORD = re.compile(
    r"(?P<before>\b(?:identified\s++(?:with\s++\S++\s++)?(?:by|as)(?:\s++(?:password|values))?"
    r"|password\s++for\s++[^=;]{1,100}=(?:\s*+password)?|password(?:\s*+=\s*+password)?)[\s=(]++"
    r"(?:[NEU]&?(?=\\*['\"]))?)"
    rf"(?:{_QUOTED}|(?<=by\s)[^\s'\"\\;()]++)",
    re.IGNORECASE,
)

# -- shapes --

_LONG = r"[A-Za-z0-9_-]"
SHAPES = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_\w{20,}+"
    rf"|gl(?:pat|dt|rt|ptt|cbt|soat|ft|imt|agent|oas|ffct)-{_LONG}{{16,}}+|xox[abeoprs]-{_LONG}{{10,}}+"
    rf"|xapp-{_LONG}{{10,}}+"
    rf"|sk-(?={_LONG}*+(?<=[0-9]|[A-Z])|{_LONG}*?[0-9]){_LONG}{{16,}}+|[sr]k_(?:live|test)_[A-Za-z0-9]{{10,}}+"
    rf"|whsec_[A-Za-z0-9+/=]{{16,}}+"
    rf"|eyJ{_LONG}{{8,}}+\.{_LONG}++(?:\.{_LONG}*+)?|hn[to]_{_LONG}{{16,}}+|AIza{_LONG}{{30,}}+"
    rf"|GOCSPX-{_LONG}{{16,}}+"
    rf"|ya29\.{_LONG}{{16,}}+|npm_[A-Za-z0-9]{{30,}}+|pypi-Ag{_LONG}{{16,}}+|hf_[A-Za-z0-9]{{30,}}+"
    rf"|hv[sb]\.{_LONG}{{20,}}+|do[por]_v1_[a-f0-9]{{32,}}+|dckr_pat_{_LONG}{{16,}}+|shp(?:at|ss)_[a-fA-F0-9]{{16,}}+"
    rf"|SG\.{_LONG}{{16,}}+\.{_LONG}++|gAAAAA{_LONG}{{60,}}+=*|AGE-SECRET-KEY-1[A-Z0-9]++)"
)
PEM = re.compile(
    r"(-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----).*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL
)
URL_PASSWORD = re.compile(r"(://[^\s/:@'\"]*+:)[^\s/@'\"]++(?=@)|(://)[^\s/:@'\"]{20,}+(?=@)")
#: A link that is signed opens what it names to whoever has it; so does one to a chat's webhook.
URL_SIGNATURE = re.compile(
    r"([?&](?:sig|signature|x-(?:amz|goog)-signature)=|hooks\.slack\.com/services/)[^&\s'\"]++",
    re.IGNORECASE,
)
BEARER = re.compile(r"\b(Bearer\s+)(?=[A-Za-z._~+/=-]*+[0-9])[A-Za-z0-9._~+/=-]{8,}+", re.IGNORECASE)

# -- hints --

#: Where shapes begin.
_SHAPE_HINTS = _words(
    "akia asia ghp_ gho_ ghu_ ghs_ ghr_ github_pat glpat- gldt- glrt- glptt- glcbt- glsoat- glft- glimt- "
    "glagent- gloas- glffct- xox xapp- sk- sk_ rk_ whsec_ eyj hnt_ hno_ aiza gocspx- ya29. npm_ pypi- hf_ "
    "hvs. hvb. _v1_ dckr_ shpat_ shpss_ sg. gaaaaa age-secret hooks.slack signature= sig="
)
#: What stands for several tools, or for one whose name is in too many words.
_OTHER_HINTS = {
    "key", "auth", "login", "sudo", "://", "-----begin", "ldap", "snmp", "mosquitto", "<<",
    "identified", "cryptsetup", "kinit", "pdbedit", "|su", "| su", "--user", "ab -", "from-literal", "psk",
}  # fmt: skip
_QUIET_TOOLS = _words("ab kubectl oc nmcli xh")


def _hints() -> dict[str, tuple[str, ...]]:
    """One of these is in every line that has something to mask; most lines have none, and are done with.

    By a part that several have, so that a line which lacks it is spared all of them.
    """
    found = {*_ENDINGS, *_SECRET_WORDS, *TOOLS, *_SHAPE_HINTS, *_OTHER_HINTS} - _QUIET_TOOLS
    left = [one for one in found if not any(other in one for other in found - {one})]
    by_part: dict[str, tuple[str, ...]] = {}
    for part in ("_", "gl", ""):
        by_part[part] = tuple(one for one in left if part in one)
        left = [one for one in left if part not in one]
    return by_part


_HINTS = _hints()


def may_hold_one(line: str) -> bool:
    """Whether a line is worth a closer look."""
    lowered = line.lower()
    for part, hints in _HINTS.items():
        if part in lowered:
            for hint in hints:  # `any` takes three times as long, for every call
                if hint in lowered:
                    return True
    return False
