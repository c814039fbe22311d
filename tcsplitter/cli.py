"""The command line: options in, objects out. What a command needs is imported when it runs, so that each starts fast."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from tcsplitter import __version__
from tcsplitter.errors import ConfigError, TcsplitterError
from tcsplitter.options import (
    Address,
    ClientOptions,
    ServerOptions,
    parse_count,
    parse_frags,
    parse_milliseconds,
    parse_needed_address,
    parse_seconds,
)

_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
_DEFAULTS: dict[str, Any] = {field.name: field.default for kind in (ClientOptions, ServerOptions) for field in fields(kind)}
_SECTIONS = (_ADDRESSES, _KEYS, _SHAPE, _OTHER) = ("Addresses", "Keys", "Payloads and connections", "Other")

_ROLES = {"--lFling": "server", "--rFling": "client"}

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


_ADDR = _Parsed("ADDR", parse_needed_address)
_BYTES = _Parsed("SIZE", parse_frags)
_COUNT = _Parsed("N", parse_count)
_MS = _Parsed("MS", parse_milliseconds)
_S = _Parsed("S", parse_seconds)


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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "--version"):
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
    roles, rest = [], []
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in _ROLES:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if value != "0":
            roles.append(_ROLES[flag])
            rest.append(f"{flag}={value}")
    if "--help" in rest and not roles:
        return ["--help"]
    if len(roles) != 1:
        raise click.UsageError(
            f"give either --lFling ADDR (server end) or --rFling ADDR (client end), once; given: {len(roles)}", ctx
        )
    return roles + rest


def _option(flag: str, field: str, section: str, kind: _Parsed, text: str, default: object = None) -> _Decorator:
    """An option that takes a value; without a default it must be given."""
    presence: dict[str, Any] = {"required": True} if default is None else {"default": str(default), "show_default": True}
    return click.option(flag, field, cls=_Option, section=section, type=kind, help=text, **presence)


def _switch(flag: str, section: str, text: str) -> _Decorator:
    return click.option(flag, cls=_Option, section=section, is_flag=True, help=text)


def _several(*decorators: _Decorator) -> _Decorator:
    """Several options as one decorator, shown in the order given."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_L_FLING = _option("--lFling", "l_fling", _ADDRESSES, _ADDR, "Listen here for client ends.")
_R_FLING = _option("--rFling", "r_fling", _ADDRESSES, _ADDR, "Where the server end listens.")
_LISTEN = _option("--listen", "listen", _ADDRESSES, _ADDR, "Local programs connect here.", _DEFAULTS["listen"])
_FORWARD = _option("--forward", "forward", _ADDRESSES, _ADDR, "The service that streams lead to.", _DEFAULTS["forward"])
_KEY = _several(
    click.option("--key-file", cls=_Option, section=_KEYS, metavar="FILE", help="The key of both ends; else TCSPLITTER_KEY."),
    _switch("--insecure", _KEYS, "Run without a key beyond loopback: anyone can use the tunnel or stand in its middle."),
)
_POOL = _several(
    _option("--conns", "conns", _SHAPE, _COUNT, "Connections kept open, dialled ahead.", _DEFAULTS["conns"]),
    _option("--burst", "burst", _SHAPE, _COUNT, "Connections to which the pool may grow; 0: it does not.", _DEFAULTS["burst"]),
    _option("--reuse", "reuse", _SHAPE, _COUNT, "Payloads per connection and direction; 0: no limit.", _DEFAULTS["reuse"]),
)
_COMMON = _several(
    _option("--frags", "size", _SHAPE, _BYTES, "Bytes of stream data in a payload.", _DEFAULTS["size"]),
    _option(
        "--idle", "idle", _SHAPE, _MS, "Life of an unused connection; the same at both ends.", f"{_DEFAULTS['idle'] * 1000:g}"
    ),
    _option("--linger", "linger", _SHAPE, _S, "How long open streams wait for a lost line.", f"{_DEFAULTS['linger']:g}"),
    _switch("--verbose", _OTHER, "Say more on stderr."),
)


@click.group(
    cls=_Program,
    context_settings={"max_content_width": 110},
    epilog="\b\nTwo machines, one key:\n"
    "  tcsplitter keygen my.key        (copy my.key to the other machine)\n"
    "  tcsplitter server --lFling 0.0.0.0:4430 --forward 127.0.0.1:22 --key-file my.key\n"
    "  tcsplitter client --rFling HOST:4430 --listen 127.0.0.1:6000 --key-file my.key\n"
    "\b\nThe word server or client may be left out: --lFling makes the server end, --rFling the client end.\n"
    "An ADDR is HOST:PORT or [IPv6]:PORT.",
)
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="tcsplitter")
def main() -> None:
    """A TCP tunnel that sends each payload of a stream on a TCP connection of its own."""


@main.command(
    epilog="\b\nExample: tcsplitter server --lFling 0.0.0.0:4430 --forward 127.0.0.1:22 --key-file my.key",
)
@_L_FLING
@_FORWARD
@_KEY
@_COMMON
def server(key_file: str | None, insecure: bool, verbose: bool, **given: Any) -> int:
    """The end beside the service.

    Accepts connections from client ends, forwards their streams to the service.
    """
    asked = ServerOptions(keys=_choose_keys(key_file, insecure, "--lFling", given["l_fling"]), **given)
    from tcsplitter.log import setup_logging
    from tcsplitter.server import ServerProgram

    setup_logging(logging.DEBUG if verbose else logging.INFO)
    return ServerProgram(asked).run()


@main.command(
    epilog="\b\nExample: tcsplitter client --rFling example.org:4430 --listen 127.0.0.1:6000 --key-file my.key",
)
@_R_FLING
@_LISTEN
@_KEY
@_POOL
@_COMMON
def client(key_file: str | None, insecure: bool, verbose: bool, **given: Any) -> int:
    """The end beside the client program.

    Accepts its connections and carries each as a stream to the server end.
    """
    asked = ClientOptions(keys=_choose_keys(key_file, insecure, "--rFling", given["r_fling"]), **given)
    from tcsplitter.client import ClientProgram
    from tcsplitter.log import setup_logging

    setup_logging(logging.DEBUG if verbose else logging.INFO)
    program = ClientProgram(asked)
    code = program.run()
    counted = program.end.session.counters.as_dict()
    logging.getLogger("tcsplitter.client").debug("counted: %s", ", ".join(f"{name} {n}" for name, n in counted.items()))
    return code


@main.command(
    epilog="\b\nExample: ssh -o ProxyCommand='tcsplitter connect --rFling %h:4430 --key-file my.key' example.org",
)
@_R_FLING
@_KEY
@_POOL
@_COMMON
def connect(key_file: str | None, insecure: bool, verbose: bool, **given: Any) -> int:
    """Stdin and stdout through the tunnel, for ssh.

    A client end for one stream, as ssh's ProxyCommand wants it.
    """
    asked = ClientOptions(keys=_choose_keys(key_file, insecure, "--rFling", given["r_fling"]), **given)
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


def _choose_keys(key_file: str | None, insecure: bool, flag: str, address: Address) -> dict[str, bytes]:
    """The keys of an end that listens on or dials `address`, which `flag` gave. ConfigError where it must not start."""
    from tcsplitter import keys

    value = os.environ.get(keys.KEY_VARIABLE)
    source = "--key-file" if key_file is not None else keys.KEY_VARIABLE if value is not None else None
    if source and insecure:
        raise ConfigError(f"--insecure: a key is given by {source}; leave out one of the two")
    if key_file is not None:
        return keys.load_keys(key_file)
    if value is not None:
        return {keys.DEFAULT_NAME: keys.key_from_environment(value)}
    if not (insecure or address.is_loopback):
        raise ConfigError(
            f"{flag} {address}: beyond loopback a key is needed. Make one with `tcsplitter keygen FILE`, copy FILE to the "
            "other machine, and give both ends --key-file FILE"
        )
    if not address.is_loopback:
        click.echo("tcsplitter: --insecure: no key, so anyone can use this tunnel or stand in its middle", err=True)
    return {keys.DEFAULT_NAME: keys.UNAUTHENTICATED_PSK}
