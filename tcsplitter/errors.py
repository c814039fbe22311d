"""Errors, by whose fault they are: the configuration's, this end's, or the other end's."""


class TcsplitterError(Exception):
    """Base of all errors of this package; its text says what happened and what to do."""

    exit_code = 1


class ConfigError(TcsplitterError):
    """Options, key files or addresses that cannot work: the user must change them."""

    exit_code = 2


class LocalProtocolError(TcsplitterError):
    """This end broke a rule of its own: a bug here."""


class RemoteProtocolError(TcsplitterError):
    """The other end sent what PROTOCOL.md forbids: a bug there, or not tcsplitter at all."""
