"""The command line: options in, objects out. What a command needs is imported when it runs, so that each starts fast."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tcsplitter import __version__
from tcsplitter import options as opt
from tcsplitter.errors import ConfigError, TcsplitterError
from tcsplitter.options import Address, ClientOptions, ServerOptions

_HELP = ["-h", "--help"]
_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
_DEFAULTS: dict[str, Any] = {field.name: field.default for kind in (ServerOptions, ClientOptions) for field in fields(kind)}
_SECTIONS = (_ADDRESSES, _KEYS, _PACE, _SHAPE, _OTHER) = (
    "Addresses",
    "Keys",
    "Pace",
    "Payloads and connections",
    "Other",
)

_ROLES = {"--lFling": "server", "--rFling": "client"}
_SERVER_SIDE = {"--lFling": "l_fling", "--lLasso": "l_lasso", "--lSync": "l_sync", "--lFlingR": "l_fling_r"}
_CLIENT_SIDE = {"--rFling": "r_fling", "--rLasso": "r_lasso", "--rSync": "r_sync", "--rFlingR": "r_fling_r"}
_REQUIRED = object()

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


if TYPE_CHECKING:
    _ParamType = click.ParamType[object]
else:
    _ParamType = click.ParamType  # not generic in the older versions that do as well


class _Parsed(_ParamType):
    """A value that options.py parses; its ConfigError names the flag."""

    def __init__(self, name: str, parse: Callable[[str, str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:  # noqa: ARG002
        if param is None or not isinstance(value, str):
            return value
        return self._parse(param.opts[0], value)


def _parse_stream_protocol(flag: str, text: str) -> str:
    if opt.parse_protocol(flag, text) != "tcp":
        raise ConfigError(f"{flag} {text!r}: connect carries one TCP stream; for UDP use the client command")
    return text


_ADDR = _Parsed("ADDR", opt.parse_needed_address)
_ADDR_OR_0 = _Parsed("ADDR", opt.parse_address)
_COUNT = _Parsed("N", opt.parse_count)
_MS = _Parsed("MS", opt.parse_milliseconds)
_S = _Parsed("S", opt.parse_seconds)
_MBIT = _Parsed("MBIT/S", opt.parse_rate)
_MODE = _Parsed("MODE", opt.parse_dup)


class _Option(click.Option):
    """An option that knows the section of `--help` it belongs to."""

    def __init__(self, declarations: Sequence[str], section: str = _OTHER, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.section = section


class _Command(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in _SECTIONS:
            shown = [param for param in self.get_params(ctx) if getattr(param, "section", _OTHER) == section]
            rows = [row for param in shown if (row := param.get_help_record(ctx))]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


class _Program(click.Group):
    """The program: knows the form without a command, and turns errors into one line and an exit code."""

    command_class = _Command

    def make_context(
        self,
        info_name: str | None,  # noqa: ARG002
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Under the name that users type, also when run by `python -m tcsplitter`."""
        return super().make_context("tcsplitter", args, parent, **extra)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run it. What is printed may not find room, as in `tcsplitter keygen >/dev/full`."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            click.echo(f"tcsplitter: cannot print: {error.strerror}", err=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python tries once more at its end, and complains
            sys.exit(1)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in (*_HELP, "--version"):
            args = _with_role(args, ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        try:
            ctx.exit(super().invoke(ctx) or 0)
        except TcsplitterError as error:
            click.echo(f"tcsplitter: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)


def _with_role(args: list[str], ctx: click.Context) -> list[str]:
    """Put the command in front that the fling address implies; an address `0` (not used) counts as not given."""
    given = []
    for word, following in zip(args, [*args[1:], ""], strict=True):
        flag, equals, value = word.partition("=")
        if flag in _ROLES and (value if equals else following) != "0":
            given.append(flag)
    if not given and any(word in _HELP for word in args):
        return _HELP[:1]
    if not given:
        raise click.UsageError("give --lFling ADDR (server end) or --rFling ADDR (client end)", ctx)
    if len(set(given)) > 1:
        raise click.UsageError("two roles at once: --lFling is for a server end, --rFling for a client end; give one as 0", ctx)
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} is given more than once", ctx)
    return [_ROLES[given[0]], *args]


def _option(flag: str, field: str, section: str, kind: _Parsed, text: str, default: object = None) -> _Decorator:
    """An option that takes a value. Without a default it may be left out."""
    presence: dict[str, Any] = {"metavar": kind.name}
    if default is _REQUIRED:
        presence["required"] = True
    elif default is not None:
        presence |= {"default": str(default), "show_default": True}
    return click.option(flag, field, cls=_Option, section=section, type=kind, help=text, **presence)


def _unused(flag: str, kind: _Parsed) -> _Decorator:
    """An option that is the other end's affair: its form is checked, its value goes nowhere."""
    return click.option(flag, cls=_Option, type=kind, hidden=True, expose_value=False)


def _switch(flag: str, section: str, text: str) -> _Decorator:
    return click.option(flag, cls=_Option, section=section, is_flag=True, help=text)


def _several(*decorators: _Decorator) -> _Decorator:
    """Several options as one decorator, shown in the order given."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _addresses(own: dict[str, str], other: dict[str, str], texts: Sequence[str]) -> _Decorator:
    """The addresses of one end, the first of which is needed. Those of the other end are possible as `0` only."""

    def not_here(instead: str) -> _Parsed:
        def parse(flag: str, text: str) -> None:
            if text != "0":
                raise ConfigError(f"{flag} {text!r}: an address of the other end; this end takes {instead}, and {flag} only as 0")

        return _Parsed("0", parse)

    kinds, presence = (_ADDR, _ADDR_OR_0, _ADDR_OR_0, _ADDR_OR_0), (_REQUIRED, None, None, None)
    return _several(
        *(
            _option(flag, field, _ADDRESSES, kind, text, default)
            for (flag, field), kind, text, default in zip(own.items(), kinds, texts, presence, strict=True)
        ),
        *(_unused(flag, not_here(instead)) for flag, instead in zip(other, own, strict=True)),
    )


_SERVERS_ADDRESSES = _addresses(
    _SERVER_SIDE,
    _CLIENT_SIDE,
    (
        "Listen here for client ends.",
        "Listen here for lassoes; without it they come to --lFling.",
        "Listen here for sync connections; without it they come to --lFling.",
        "Listen here for connections with what is sent again; without it they come to --lFling.",
    ),
)
_CLIENTS_ADDRESSES = _addresses(
    _CLIENT_SIDE,
    _SERVER_SIDE,
    (
        "Where the server end listens.",
        "Where lassoes are dialled; without it: --rFling.",
        "Dial two connections for control traffic here; without it there are none.",
        "Dial connections for what is sent again here; without it there are none.",
    ),
)
_LISTEN = _option("--listen", "listen", _ADDRESSES, _ADDR, "Local programs connect here.", _DEFAULTS["listen"])
_FORWARD = _option("--forward", "forward", _ADDRESSES, _ADDR, "The service that streams lead to.", _DEFAULTS["forward"])
_KEY = _several(
    click.option("--key-file", cls=_Option, section=_KEYS, metavar="FILE", help="The key of both ends; else TCSPLITTER_KEY."),
    _switch("--insecure", _KEYS, "Run without a key beyond loopback: anyone can use the tunnel or stand in its middle."),
)
_PACES = _several(
    _option("--tick", "tick", _PACE, _MS, "Least time between two reads of a local socket; 0: none.", 0),
    _option(
        "--tock", "tock", _PACE, _Parsed("MS", opt.parse_tock), "How long a payload that is not full waits; auto, 0: not.", "auto"
    ),
    _option(
        "--buffer",
        "buffer",
        _PACE,
        _Parsed("MS[:N]", opt.parse_buffer),
        "Forward one payload, or N at once, to the local program every MS; 0:0: as soon as in order.",
        "0:0",
    ),
    _switch("--catch-up", _PACE, "After a beat whose payload was late, forward what piled up at once."),
    _option("--after", "after", _PACE, _MS, "How long a new stream is forwarded without --buffer.", 0),
    _option("--rate", "rate", _PACE, _MBIT, "Hard cap on what payload takes on the line, headers included; 0: none.", 0),
    _switch("--polite", _PACE, "Yield to others' traffic that keeps the line full, however long."),
)
_DATAGRAMS = _several(
    _option("--protocol", "protocol", _SHAPE, _Parsed("PROTOCOL", opt.parse_protocol), "What is tunnelled: tcp or udp.", "tcp"),
    _option("--deadline", "deadline", _SHAPE, _MS, "Drop datagrams (udp) that are older; 0: none.", 0),
    _option("--flow-idle", "flow_idle", _SHAPE, _MS, "Life of an unused flow (udp).", f"{_DEFAULTS['flow_idle'] * 1000:g}"),
)
_STREAM_ONLY = _option(
    "--protocol", "protocol", _SHAPE, _Parsed("PROTOCOL", _parse_stream_protocol), "What is tunnelled: tcp.", "tcp"
)
_SERVERS_DUP = _option("--dup", "dup", _SHAPE, _MODE, "Refuse clients of other modes; without it none is refused.")
_CLIENTS_AFFAIR = _several(
    _unused("--listen", _ADDR_OR_0), *(_unused(flag, _COUNT) for flag in ("--conns", "--lassoes", "--burst", "--reuse"))
)
_SERVERS_AFFAIR = _unused("--forward", _ADDR_OR_0)
_POOL = _several(
    _option("--dup", "dup", _SHAPE, _MODE, "Which connections carry what: fling, lasso, both or none.", _DEFAULTS["dup"]),
    _option("--conns", "conns", _SHAPE, _COUNT, "Flings kept open, dialled ahead.", _DEFAULTS["conns"]),
    _option("--lassoes", "lassoes", _SHAPE, _COUNT, "Lassoes kept open, dialled ahead.", _DEFAULTS["lassoes"]),
    _option("--burst", "burst", _SHAPE, _COUNT, "Connections to which a pool may grow; 0: it does not.", _DEFAULTS["burst"]),
    _option("--reuse", "reuse", _SHAPE, _COUNT, "Payloads per connection and direction; 0: no limit.", _DEFAULTS["reuse"]),
)
_COMMON = _several(
    _option(
        "--frags",
        "frags",
        _SHAPE,
        _Parsed("SIZE[:MTU]|auto", opt.parse_frags),
        "Bytes of data in a payload, and of a packet on the line (0: as the kernel finds); auto: 10000, and more if need be.",
        "auto",
    ),
    _option(
        "--retries",
        "retries",
        _SHAPE,
        _Parsed("R:SKIP", opt.parse_retries),
        "R 1: send lost payloads again, 0: not. Skip one that is missing after SKIP attempts; -1: never.",
        "1:-1",
    ),
    _option(
        "--fec",
        "fec",
        _SHAPE,
        _Parsed("D:P|auto", opt.parse_fec),
        "With every D payloads send P of parity, on further connections: any D of D+P rebuild the rest; "
        "auto: as much as the line needs; 0: none.",
        _DEFAULTS["fec"],
    ),
    _option(
        "--hedge",
        "hedge",
        _SHAPE,
        _Parsed("on|off", opt.parse_switch),
        "Send payloads that are late, and small ones that may be, on further connections too; never with --retries 0:SKIP.",
        "on",
    ),
    _option(
        "--idle", "idle", _SHAPE, _MS, "Life of an unused connection; the same at both ends.", f"{_DEFAULTS['idle'] * 1000:g}"
    ),
    _option("--linger", "linger", _SHAPE, _S, "How long open streams wait for a lost line.", f"{_DEFAULTS['linger']:g}"),
    _switch("--verbose", _OTHER, "Say more on stderr."),
)


@click.group(
    cls=_Program,
    context_settings={"max_content_width": 110, "help_option_names": _HELP},
    epilog="\b\nTwo machines, one key:\n"
    "  tcsplitter keygen my.key        (copy my.key to the other machine)\n"
    "  tcsplitter server --lFling 0.0.0.0:4430 --forward 127.0.0.1:22 --key-file my.key\n"
    "  tcsplitter client --rFling HOST:4430 --listen 127.0.0.1:6000 --key-file my.key\n"
    "\b\nThe word server or client may be left out: --lFling makes the server end, --rFling the client end.\n"
    "An ADDR is HOST:PORT or [IPv6]:PORT; MS are milliseconds, also 0.5.",
)
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="tcsplitter")
def main() -> None:
    """A tunnel for TCP and UDP that sends each payload on a TCP connection of its own."""


@main.command(
    epilog="\b\nExample: tcsplitter server --lFling 0.0.0.0:4430 --forward 127.0.0.1:22 --key-file my.key\n"
    "\b\nEach end has knobs of its own for what it sends, --buffer for what it receives. What is the client end's\n"
    "affair is accepted and not used: --listen, --conns, --lassoes, --burst, --reuse, and 0 for its addresses.",
)
@_SERVERS_ADDRESSES
@_FORWARD
@_KEY
@_PACES
@_DATAGRAMS
@_SERVERS_DUP
@_COMMON
@_CLIENTS_AFFAIR
def server(key_file: str | None, insecure: bool, verbose: bool, **given: Any) -> int:
    """The end beside the service.

    Accepts connections from client ends, forwards their streams to the service.
    """
    keys = _choose_keys(key_file, insecure, {flag: given[field] for flag, field in _SERVER_SIDE.items()})
    asked = ServerOptions(keys=keys, **_knobs(given))
    from tcsplitter.log import setup_logging
    from tcsplitter.server import ServerProgram

    setup_logging(logging.DEBUG if verbose else logging.INFO)
    _log_unused("server", "client", ("--burst", "--conns", "--lassoes", "--listen", "--reuse"))
    return ServerProgram(asked).run()


@main.command(
    epilog="\b\nExample: tcsplitter client --rFling example.org:4430 --listen 127.0.0.1:6000 --key-file my.key\n"
    "\b\nEach end has knobs of its own for what it sends, --buffer for what it receives. What is the server end's\n"
    "affair is accepted and not used: --forward, and 0 for its addresses.",
)
@_CLIENTS_ADDRESSES
@_LISTEN
@_KEY
@_PACES
@_DATAGRAMS
@_POOL
@_COMMON
@_SERVERS_AFFAIR
def client(key_file: str | None, insecure: bool, verbose: bool, **given: Any) -> int:
    """The end beside the client program.

    Accepts its connections and carries each as a stream to the server end.
    """
    keys = _choose_keys(key_file, insecure, {flag: given[field] for flag, field in _CLIENT_SIDE.items()})
    asked = ClientOptions(keys=keys, **_knobs(given))
    from tcsplitter.client import ClientProgram
    from tcsplitter.log import setup_logging

    setup_logging(logging.DEBUG if verbose else logging.INFO)
    _log_unused("client", "server", ("--forward",))
    return ClientProgram(asked).run()


@main.command(
    epilog="\b\nExample: ssh -o ProxyCommand='tcsplitter connect --rFling %h:4430 --key-file my.key' example.org",
)
@_CLIENTS_ADDRESSES
@_KEY
@_PACES
@_STREAM_ONLY
@_POOL
@_COMMON
def connect(key_file: str | None, insecure: bool, verbose: bool, **given: Any) -> int:
    """Stdin and stdout through the tunnel, for ssh.

    A client end for one stream, as ssh's ProxyCommand wants it.
    """
    if sys.stdin is None or sys.stdout is None:
        raise ConfigError("connect: standard input or output is closed; leave both open, or give it /dev/null")
    keys = _choose_keys(key_file, insecure, {flag: given[field] for flag, field in _CLIENT_SIDE.items()})
    asked = ClientOptions(keys=keys, **_knobs(given))
    from tcsplitter.client import run_connect
    from tcsplitter.log import setup_logging

    setup_logging(logging.DEBUG if verbose else logging.WARNING)
    return run_connect(asked)


@main.command(epilog="\b\nExample: tcsplitter keygen my.key")
@click.argument("file", required=False)
def keygen(file: str | None) -> None:
    """Make a key.

    Writes FILE, readable by you alone; without FILE the key is printed.
    """
    import secrets

    from tcsplitter import keys

    key = keys.generate_key(secrets.token_bytes(32))
    if file is None:
        click.echo(key)
        return
    keys.write_key_file(file, key)
    click.echo(f"{file} is written. Copy it to the other machine (scp does) and give both ends --key-file FILE.", err=True)


@main.command(epilog="\b\nExample: tcsplitter demo")
def demo() -> int:
    """Try it on this machine.

    Runs both ends on loopback with a throw-away key, sends data both ways, verifies it and prints figures.
    """
    from tcsplitter.demo import run_demo

    def show(line: str) -> None:
        colour = {"FAILED": "red", "All": "green"}.get(line.partition(" ")[0].rstrip(":"))
        click.secho(line, fg=colour)

    return run_demo(show)


def _knobs(given: dict[str, Any]) -> dict[str, Any]:
    """The values of a command line as fields of the options."""
    size, mtu = given.pop("frags")
    playout = replace(given.pop("buffer"), catch_up=given.pop("catch_up"), after=given.pop("after"))
    return given | {"size": size, "mtu": mtu, "playout": playout}


def _log_unused(end: str, other: str, flags: Sequence[str]) -> None:
    """Say once which of these flags, the other end's affair, were given."""
    context = click.get_current_context()
    given = [flag for flag in flags if context.get_parameter_source(flag[2:]) is ParameterSource.COMMANDLINE]
    if given:
        logging.getLogger(f"tcsplitter.{end}").info("%s: the %s end's affair; not used here", ", ".join(given), other)


def _choose_keys(key_file: str | None, insecure: bool, addresses: dict[str, Address | None]) -> dict[str, bytes]:
    """The keys of an end that listens on or dials these addresses, by flag. ConfigError where it must not start."""
    from tcsplitter import keys

    value = os.environ.get(keys.KEY_VARIABLE)
    source = "--key-file" if key_file is not None else keys.KEY_VARIABLE if value is not None else None
    if source and insecure:
        raise ConfigError(f"--insecure: a key is given by {source}; leave out one of the two")
    if key_file is not None:
        return keys.load_keys(key_file)
    if value is not None:
        return {keys.DEFAULT_NAME: keys.key_from_environment(value)}
    beyond = [f"{flag} {address}" for flag, address in addresses.items() if address and not address.is_loopback]
    if beyond and not insecure:
        raise ConfigError(
            f"{beyond[0]}: beyond loopback a key is needed. Make one with `tcsplitter keygen FILE`, copy FILE to the "
            "other machine, and give both ends --key-file FILE"
        )
    if beyond:
        click.echo("tcsplitter: --insecure: no key, so anyone can use this tunnel or stand in its middle", err=True)
    return {keys.DEFAULT_NAME: keys.UNAUTHENTICATED_PSK}
