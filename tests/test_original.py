"""The original's command lines, unchanged, with a key in the environment; in a network namespace where their ports are free."""

import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tunnel import Process

from tcsplitter.keys import KEY_VARIABLE, generate_key

SHORT = (
    "--frags 1292:1308 --conns 12 --buffer 83:0 --tick 41 --tock 83 --listen localhost:6001 --forward 127.0.0.1:22 "
    "--lFling localhost:10900 --lSync localhost:30902",
    "--frags 1292:1308 --conns 12 --buffer 83:0 --tick 41 --tock 83 --listen localhost:6000 --rFling 127.0.0.1:10900 "
    "--rSync 127.0.0.1:30902",
)
LONG = (
    "--protocol tcp --dup fling --fec 0 --retries 0:10000 --tick 50 --tock 250 --buffer 0:0 --after 0 --conns 1 "
    "--frags 10000:1308 --listen 127.0.0.1:6001 --forward 127.0.0.1:6003 --lFling 127.0.0.1:6091 --rFling 0 "
    "--lSync 127.0.0.1:5998 --lLasso 127.0.0.1:6899 --rLasso 0 --rFlingR 0 --lFlingR 127.0.0.1:6989",
    "--protocol tcp --dup fling --fec 0 --retries 0:1000 --tick 50 --tock 250 --buffer 0:0 --conns 40 --lassoes 0 "
    "--rFling 127.0.0.1:6091 --rSync 127.0.0.1:5998 --lLasso 0 --rLasso 127.0.0.1:6899 --lFlingR 0 --rFlingR 127.0.0.1:6989",
)
TALK = """
import hashlib, socket, sys, threading
port, size = int(sys.argv[1]), int(sys.argv[2])
service = socket.create_server(("127.0.0.1", port))
def serve():
    sock, _ = service.accept()
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.close()
threading.Thread(target=serve, daemon=True).start()
sent = bytes(range(256)) * (size // 256)
with socket.create_connection(("127.0.0.1", 6000), timeout=60) as sock:
    def send():
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
    threading.Thread(target=send, daemon=True).start()
    came = b""
    while data := sock.recv(65536):
        came += data
print("identical" if came == sent else f"{len(came)} bytes differ", flush=True)
"""


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A network namespace with loopback up; gives the words to put before a command that is to run in it."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        yield ["nsenter", "--target", str(holder.pid), "--net"]
    finally:
        holder.communicate(timeout=30)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
@pytest.mark.parametrize(("server", "client", "port"), [(*SHORT, 22), (*LONG, 6003)], ids=["short", "long"])
def test_the_command_lines_of_the_original_carry_data(server: str, client: str, port: int) -> None:
    environment = os.environ | {KEY_VARIABLE: generate_key(secrets.token_bytes(32))}
    with namespace() as inside:
        program = [*inside, str(Path(sys.executable).parent / "tcsplitter")]
        with Process("the server end", [*program, *shlex.split(server)], environment) as at_server:
            at_server.wait_for("listening on ")
            with Process("the client end", [*program, *shlex.split(client)], environment) as at_client:
                at_client.wait_for("listening on ")
                with Process("the programs", [*inside, sys.executable, "-c", TALK, str(port), "40960"]) as talk:
                    talk.wait_for("identical")


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_insecure_stands_in_for_the_key() -> None:
    environment = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
    with namespace() as inside:
        program = [*inside, str(Path(sys.executable).parent / "tcsplitter"), "--insecure"]
        with Process("the server end", [*program, *shlex.split(LONG[0])], environment) as at_server:
            at_server.wait_for("listening on ")
            with Process("the client end", [*program, *shlex.split(LONG[1])], environment) as at_client:
                at_client.wait_for("listening on ")
                with Process("the programs", [*inside, sys.executable, "-c", TALK, "6003", "2560"]) as talk:
                    talk.wait_for("identical")
