"""The script that makes a command exact on an older node, and how its output is taken apart.

Such a node feeds each command to one long-lived interactive shell and takes its output line by line, as
text. So the command runs in a child shell with a process group of its own, whatever it prints travels as
base64 in short lines between markers, and all that came from the caller stands in the script as octal
numbers, into which no shell, line editor or history reads anything. POSIX sh, with the tools that Linux
and macOS share; `setsid` only where there is one.
"""

import binascii
import re
import secrets
import shlex
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hermes_nodes.errors import ProtocolViolation

#: Bytes of each stream that are passed on. Encoded, both together must stay below the 10 MB at which an
#: older node cuts what it is given, or the exit code behind them would be lost.
KEEP_BYTES = 7 * 1024 * 1024
_ENCODED_BYTES = 9_990_000
#: Bytes of a command: Linux takes no longer argument (MAX_ARG_STRLEN, less its NUL).
MAX_COMMAND = 128 * 1024 - 1
#: Bytes of a command's input.
MAX_STDIN = 512 * 1024

#: Run once in an interactive shell, it no longer echoes the scripts that it is fed.
ECHO_OFF = "set +o emacs +o vi; PS2=\n"
# The node moves its shell to each call's directory, and leaves it there. Where it stood at first is where
# calls that name none begin; `_hermes_at` is where the last command of a session has gone.
_REMEMBER = '[ "$_hermes_home" ] || _hermes_home={}\n'

# Three shells, one in the other: ``_MAIN``, in the foreground of the node's own; a group of readers, which
# can be ended as one when its time is up or its work is done; the command in a group of its own. Under bash
# `set -m` makes the groups, and leaves the signals of what it starts alone; a plain sh has `setsid` for it.
# Bash is told (-p; `+e` changes nothing) to take no functions and no BASH_ENV that others have exported in
# the node's shell; there itself `\command` passes by their functions and aliases.
#
# Each fd has one task: 9 the node's end of stdout, 8 notes on stderr's way, 7 the command's stderr, 4 its
# stdin. Every line of base64 bears a tag, so that what something else prints in the node's shell is told
# apart. Notes stand amid it in signs that base64 lacks: `:code:`, `(n)` for the bytes that stdout took, `;`
# for a time-out. They are taken out with sed: the shells' own expansions are quadratic on megabytes.
#
# When time is up the command's group gets TERM, then KILL. What has left that group may hold the pipes
# still: then the readers' own group gets TERM, to which only those that read from the pipes listen.
_RUN = """\
_s=$(\\command -v bash || \\command -v sh); case $_s in *bash) _i=-p ;; *) _i=+e ;; esac
_m='{readers}'
{source} "$_s" "$_i" -c '{main}' sh "$_m" "$_i" "$_s" "$_c" {env} {input}
\\command echo"""
_MAIN = """\
exec 2>/dev/null 4<&0
_m=$1 _i=$2 _s=$3 _g=; shift 2
case $_s in *bash) set -m ;; *) command -v setsid >/dev/null && _g=setsid ;; esac
echo {marker}out
$_g "$_s" "$_i" -c "$_m" sh "$_g" "$@" <&4 4<&- & _j=$!
wait "$_j"; kill -s KILL -- "-$_j"
"""
_READERS = """\
trap "" TERM
_g=$1 _s=$2 _c=$3; shift 3
_b() {{ base64 | tr -d "\\n" | fold -w 1000 | sed "s/^/{tag}/"; }}
_e() {{ ( trap - TERM; exec cat ) | {{ head -c {keep}; exec cat >/dev/null; }} | _b; }}
{stdout}
exec 9>&1
_r=$( exec 8>&1; {{ {{ exec 4<&0; [ "$_g" ] || set -m
( trap - TERM
exec $_g ${{1+env --}} "$@" "$_s" -c "$_c" "${{_s##*/}}" <&4 4<&- 2>&7 7>&- 8>&- 9>&- ) & _p=$!; set +m
( exec 4<&- 7>&- 8>&- >/dev/null; sleep {seconds}; printf ";" >&9
kill -s TERM -- "-$_p" || kill -s TERM "$_p"; sleep 2
kill -s KILL -- "-$_p" || kill -s KILL "$_p"; sleep 1
kill -s TERM -- "-$$"; sleep 1; kill -s KILL -- "-$$" ) &
wait "$_p"; printf ":%s:" "$?" >&8
}} | _o 7>&-; }} 7>&1 | _e 8>&- 9>&- )
_n=$(printf "%s\\n" "$_r" | sed -n "s/.*(\\([0-9]*\\)).*/\\1/p")
_n=$(({encoded} - ${{_n:-0}})); [ "$_n" -gt 0 ] || _n=0
echo; echo {marker}err
printf "%s\\n" "$_r" | head -c "$_n"
echo; echo {marker}len "${{#_r}}" "$_n"
printf "%s\\n" "$_r" | sed -n "s/.*:\\([0-9][0-9]*\\):.*/{marker}end \\1/p"
"""
_WHOLE = """\
_o() { _e 8>&- | awk "{ n += length + 1; print } END { printf \\"(%d)\\", n | \\"cat >&8\\" }" >&9; }"""
# One read, one piece: `head` and `base64` would wait for a full buffer. The last may not pass the limit.
_LIVE = """\
_o() {{ _n=0
while _l=$( ( trap - TERM; exec dd bs=49152 count=1 2>/dev/null 8>&- ) | _b 8>&-); [ "$_l" ]; do
printf "%s\\n" "$_l" >&9; _n=$((_n + ${{#_l}} + 1)); [ "$_n" -lt {last} ] || break
done; printf "(%s)" "$_n" >&8; [ "$_n" -lt {last} ] || ( trap - TERM; exec cat >/dev/null 8>&- ); }}"""
#: What one piece of live output takes: 48 KiB as base64, in lines.
_PIECE_BYTES = 66_000


def new_marker() -> str:
    """What stands around the parts of one command's output, and in no command's own."""
    return f"hermes{secrets.token_hex(12)}"


def guarded_script(
    marker: str,
    command: str,
    *,
    seconds: float,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    live: bool = False,
) -> str:
    """A script that runs ``command`` in a shell of its own, for at most so many seconds."""
    variables = [f"{name}={value}" for name, value in (env or {}).items()]
    readers = _READERS.format(
        marker=marker,
        tag=line_tag(marker),
        keep=KEEP_BYTES + 1,
        encoded=_ENCODED_BYTES,
        seconds=f"{seconds:g}",
        stdout=_LIVE.format(last=_ENCODED_BYTES - _PIECE_BYTES) if live else _WHOLE,
    )
    run = _RUN.format(
        main=_MAIN.format(marker=marker),
        readers=readers,
        source=f"\\command printf '{_octal(stdin)}' 2>/dev/null |" if stdin else "",
        input="" if stdin else "</dev/null",
        env=" ".join(f'"$_{number}"' for number in range(len(variables))),
    )
    given = [_assign(f"_{number}", variable) for number, variable in enumerate(variables)]
    return _remember(cwd) + "\n".join(
        ["(", *_stand_in(marker, cwd), *given, _assign("_c", command), run, ")"]
    )


def session_script(marker: str, command: str, *, cwd: str | None, env: Mapping[str, str] | None) -> str:
    """A script that runs ``command`` in the node's own shell, so that what it changes there lasts."""
    exports = "".join(f"{_assign(name, value)}; export {name}; " for name, value in (env or {}).items())
    # `command`, or a mistake in it would make dash throw away what the node sends next.
    run = (
        f'{exports}{_assign("_hermes_c", command)}; command eval "$_hermes_c" </dev/null; '
        '_hermes_r=$?; _hermes_at=$PWD; (exit "$_hermes_r")'
    )
    if cwd is None:
        return f'{_remember(cwd)}cd "${{_hermes_at:-$_hermes_home}}" 2>/dev/null; {run}'
    check = f'{_assign("_hermes_d", cwd)}; [ . -ef "$_hermes_d" ]'
    return f"{_remember(cwd)}if {check}; then {run}; else echo {marker}denied; fi"


def as_command(argv: list[str]) -> str:
    """A command line that runs these words as they are."""
    if argv[0].startswith("-"):  # which `exec` takes for its own options, with `--` before it in bash alone
        return f"printf '%s: not found\\n' {shlex.quote(argv[0])} >&2; exit 127"
    return f"exec {shlex.join(argv)}"


def line_tag(marker: str) -> str:
    """What each line of a call's base64 begins with."""
    return marker[-8:] + "="


def _remember(cwd: str | None) -> str:
    """Keep where the node's shell began; a call's own directory is where it has been moved to since."""
    return _REMEMBER.format("$PWD" if cwd is None else "${OLDPWD-}")


def _octal(data: bytes) -> str:
    return "".join(map(_OCTAL.__getitem__, data))


_OCTAL = [f"\\{byte:03o}" for byte in range(256)]


def _assign(name: str, value: str) -> str:
    """A variable with exactly this value: `$(…)` would drop newlines at its end."""
    return f"{name}=$(\\command printf '{_octal(value.encode())}.'); {name}=${{{name}%.}}"


def _stand_in(marker: str, cwd: str | None) -> list[str]:
    """Go no further where the node did not go to the directory that it was told."""
    if cwd is None:
        return ['\\command cd "$_hermes_home" 2>/dev/null']
    return [
        _assign("_d", cwd),
        f'\\command test . -ef "$_d" || {{ \\command echo {marker}denied; exit 0; }}',
    ]


class Ended(NamedTuple):
    """How a guarded command ended; ``exit_code`` is None where its shell never said."""

    exit_code: int | None
    is_late: bool
    is_denied: bool
    stderr: bytes
    truncated: bool


class DamagedOutput(ProtocolViolation):
    """What a guarded command's shell printed holds something that its guard did not print."""

    def __init__(self) -> None:
        super().__init__("a guarded command's output is damaged")


class GuardedOutput:
    """Takes a guarded command's output apart as it comes: ``feed`` gives its stdout, ``end`` the rest.

    Both raise DamagedOutput.
    """

    def __init__(self, marker: str) -> None:
        self._marker = marker.encode()
        self._tag = line_tag(marker).encode()
        self._rest = b""
        self._lines = 0
        self._stdout_size = self._stderr_size = 0
        # Not bound: a reference to itself would keep its megabytes until the garbage collector comes.
        self._part: Callable[[GuardedOutput, bytes], bytes] = GuardedOutput._before
        self._room = KEEP_BYTES
        self._stderr = bytearray()
        self._exit_code: int | None = None
        self._is_late = self._is_denied = self._is_cut = False

    def feed(self, printed: bytes) -> bytes:
        """The command's stdout that is in this."""
        self._lines += printed.count(b"\n")
        if self._lines > _MAX_LINES:
            raise DamagedOutput
        *lines, self._rest = (self._rest + printed).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise DamagedOutput
        return b"".join([self._part(self, line) for line in lines])

    def end(self) -> Ended:
        """What is known when all has come."""
        self.feed(b"\n")
        stderr = bytes(self._stderr[:KEEP_BYTES])
        cut = self._is_cut or len(self._stderr) > KEEP_BYTES
        return Ended(self._exit_code, self._is_late, self._is_denied, stderr, cut)

    # Each part of the output has its own reader of lines, which gives the stdout that a line holds.

    def _before(self, line: bytes) -> bytes:
        if line == self._marker + b"out":
            self._part = GuardedOutput._in_stdout
        self._is_denied = self._is_denied or line == self._marker + b"denied"
        return b""

    def _in_stdout(self, line: bytes) -> bytes:
        line = self._without_time_out(line)
        if line == self._marker + b"err":
            self._part = GuardedOutput._in_stderr
            return b""
        if not line.startswith(self._tag):
            return b""
        self._stdout_size += len(line) + 1
        content = self._decoded(line)
        self._is_cut = self._is_cut or len(content) > self._room
        kept = content[: self._room]
        self._room -= len(kept)
        return kept

    def _in_stderr(self, line: bytes) -> bytes:
        line = self._without_time_out(line)
        if line.startswith(self._marker):
            self._take_note(line.removeprefix(self._marker))
            return b""
        content = _NOTES.sub(b"", line)
        if not content or content.startswith(self._tag):
            if (said := _COUNT.search(line)) is not None:
                self._check(self._stdout_size, int(said[1]))
            self._stderr_size += len(line) + 1
            self._stderr += self._decoded(content)
        return b""

    def _take_note(self, note: bytes) -> None:
        """What the guard says of a command at its end: what stderr came to, and the exit code."""
        length = re.fullmatch(rb"len ([0-9]{1,10}) ([0-9]{1,10})", note)
        ended = re.fullmatch(rb"end ([0-9]{1,3})", note)
        if length is not None:
            whole, room = int(length[1]), int(length[2])
            self._is_cut = self._is_cut or whole >= room
            # With the newline behind it, and the one that `echo` adds.
            self._check(self._stderr_size, min(whole + 1, room) + 1)
        elif ended is not None and int(ended[1]) <= _MOST_CODE:
            self._exit_code = int(ended[1])
        else:
            raise DamagedOutput

    def _check(self, counted: int, said: int) -> None:
        """What was printed into the midst of a line shows in the count."""
        if counted != said:
            raise DamagedOutput

    def _without_time_out(self, line: bytes) -> bytes:
        """The sign of a time-out may stand between any two writes of the guard, and in lines of others."""
        if b";" not in line:
            return line
        rest = line.replace(b";", b"")
        content = _NOTES.sub(b"", rest)
        if content and not content.startswith((self._tag, self._marker)):
            return line
        self._is_late = True
        return rest

    def _decoded(self, line: bytes) -> bytes:
        """Where the last line was cut off, what is whole of it."""
        content = line[len(self._tag) :]  # nothing where the line held but a note
        whole = len(content) & ~3
        self._is_cut = self._is_cut or whole < len(content)
        try:
            return binascii.a2b_base64(content[:whole], strict_mode=True)
        except binascii.Error as error:
            raise DamagedOutput from error


# The last one may have been cut off.
_NOTES = re.compile(rb":[0-9]+:|\([0-9]+\)|[:(][0-9]*\Z")
#: The guard's own lines have a thousand characters; what has many more comes from elsewhere.
_MAX_LINE = 64 * 1024
_MAX_LINES = 200_000
_COUNT = re.compile(rb"\(([0-9]{1,10})\)")
#: What a process can leave behind as its exit code.
_MOST_CODE = 255
