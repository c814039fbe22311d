"""An end-to-end tunnel that cuts TCP streams into payloads and carries each one over a TCP connection of its own."""

__version__ = "0.1.0"
