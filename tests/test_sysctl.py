"""sysctl/*.conf: each key explained, taken by this kernel, and in effect in a network namespace made here, where the tunnel runs.

Global keys are never written: their existence and form are looked up on the host, which none of this may change.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tunnel import LIMIT

FIGURES = logging.getLogger("figures")  # pytest --log-cli-level=INFO shows them
FOLDER = Path(__file__).parent.parent / "sysctl"
FILES = ("clean.conf", "dirty.conf")
PROC = Path("/proc/sys")

# What a network namespace has no value of its own for.
GLOBAL = frozenset(
    {
        "fs.file-max",
        "net.core.netdev_max_backlog",
        "net.core.rmem_max",
        "net.ipv4.tcp_max_orphans",
        "net.ipv4.tcp_mem",
        "net.netfilter.nf_conntrack_max",
    }
)
# Keys of old lists that current kernels lack, or have without an effect.
DEAD = frozenset({"tcp_fack", "tcp_early_retrans", "tcp_low_latency", "tcp_tw_recycle", "tcp_frto_response", "udp_wmem_min"})
LARGEST = 2**31 - 1

# Runs in the namespace: {key: value} and the id of the host's namespace in; what each key, and whether it can be set, out.
SETTER = """
import json, os, stat, sys

wanted, host, command = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
assert os.readlink("/proc/self/ns/net") != host, "this would change the host"
found = {}
for key, value in wanted.items():
    path = "/proc/sys/" + key.replace(".", "/")
    settable = os.path.exists(path) and bool(os.stat(path).st_mode & stat.S_IWUSR)
    if settable and value is not None:
        with open(path, "w") as file:
            file.write(value)
    if settable:
        with open(path) as file:
            found[key] = file.read().split()
print(json.dumps(found), flush=True)
if command:
    os.execv(command[0], command)
"""


class Setting(NamedTuple):
    """One line of a file, and the comment above it."""

    key: str
    value: str
    optional: bool
    comment: str

    @property
    def is_global(self) -> bool:
        """Of the whole machine; must not be written here."""
        return self.key in GLOBAL

    @property
    def path(self) -> Path:
        """Where the host has it."""
        return PROC / self.key.replace(".", "/")


def read(name: str) -> list[Setting]:
    """The settings in their order; AssertionError at a line that is none."""
    settings = []
    comment: list[str] = []
    for line in (FOLDER / name).read_text(encoding="ascii").splitlines():
        if not line or line.startswith("# "):
            comment = [*comment, line[2:]] if line else []
            continue
        found = re.fullmatch(r"(-?)([a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)+) = ([0-9][0-9 ,-]*)", line)
        assert found, f"{name}: {line!r}"
        settings.append(Setting(found[2], found[3], bool(found[1]), " ".join(comment)))
        comment = []
    return settings


def host_values() -> dict[str, str]:
    """What the host has now, of all keys in the files."""
    settings = [setting for name in FILES for setting in read(name)]
    return {setting.key: setting.path.read_text() for setting in settings if setting.path.exists()}


def in_namespace(wanted: dict[str, str | None], command: Sequence[str] = ()) -> tuple[dict[str, list[str]], str]:
    """Set the keys in a new network namespace, or only look at those without a value; then run the command there.

    The values afterwards of those that can be set there, and what the command printed.
    """
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None or shutil.which("ip") is None:
        pytest.skip("needs root, unshare and ip to make a network namespace")
    setter = [sys.executable, "-c", SETTER, json.dumps(wanted), os.readlink("/proc/self/ns/net")]
    # A fresh /proc: containers tend to have one that cannot be written to.
    done = subprocess.run(
        [unshare, "--net", "--mount-proc", *setter, *command], capture_output=True, text=True, timeout=2 * LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    first, _, rest = done.stdout.partition("\n")
    found: dict[str, list[str]] = json.loads(first)
    return found, rest


@pytest.mark.parametrize("name", FILES)
class TestText:
    def test_each_key_is_there_once_with_a_comment_that_says_its_risk(self, name: str) -> None:
        settings = read(name)
        assert len({setting.key for setting in settings}) == len(settings) > 10
        for setting in settings:
            what, _, risk = setting.comment.partition(" Risk: ")
            assert re.match(r"(Both ends|Client end|Server end)\b", what), setting
            assert risk.endswith("."), setting
            assert (" Global" in what) == setting.is_global, setting

    def test_no_key_is_dead_and_no_number_too_large(self, name: str) -> None:
        for setting in read(name):
            assert setting.key.rpartition(".")[2] not in DEAD
            assert all(int(number) <= LARGEST for number in re.findall("[0-9]+", setting.value)), setting

    def test_keys_that_come_with_a_module_may_be_missing_and_no_others(self, name: str) -> None:
        for setting in read(name):
            assert setting.optional == setting.key.startswith("net.netfilter."), setting

    def test_ports_are_those_anyone_may_take_and_of_both_parities(self, name: str) -> None:
        low, high = map(int, {setting.key: setting.value for setting in read(name)}["net.ipv4.ip_local_port_range"].split())
        assert 1024 <= low < high <= 65_535
        assert (high - low) % 2 == 1


def test_time_wait_is_reused_only_with_timestamps() -> None:
    for name in FILES:
        values = {setting.key: setting.value for setting in read(name)}
        assert values.get("net.ipv4.tcp_tw_reuse", "0") == "0" or values["net.ipv4.tcp_timestamps"] == "1"


@pytest.mark.parametrize("name", FILES)
def test_the_host_has_each_key_in_the_form_given(name: str) -> None:
    for setting in read(name):
        if setting.optional and not setting.path.exists():
            continue
        there = setting.path.read_text().split()
        assert all(number.isdecimal() for number in setting.value.split()) or setting.key.endswith("_ports"), setting
        assert len(setting.value.split()) == len(there) or not there, setting


@pytest.mark.netns
def test_a_namespace_has_all_but_the_global_keys_for_itself() -> None:
    settings = {setting.key: setting for name in FILES for setting in read(name)}
    assert settings.keys() >= GLOBAL
    # fs is not about networks: a namespace shows the host's.
    found, _ = in_namespace({key: None for key in settings if key.startswith("net.")})
    assert not found.keys() & GLOBAL
    missing = settings.keys() - GLOBAL - found.keys()
    assert not [key for key in missing if not settings[key].optional or settings[key].path.exists()]


@pytest.mark.netns
@pytest.mark.parametrize("name", FILES)
def test_each_key_takes_effect_and_the_tunnel_runs(name: str) -> None:
    wanted = {setting.key: setting for setting in read(name) if not setting.is_global}
    before = host_values()
    demo = f"ip link set lo up && exec {sys.executable} -m tcsplitter demo"
    values: dict[str, str | None] = {key: setting.value for key, setting in wanted.items()}
    found, said = in_namespace(values, ["/bin/sh", "-c", demo])
    assert {key: setting.value.split() for key, setting in wanted.items() if key in found} == found
    assert not [key for key in wanted.keys() - found.keys() if not wanted[key].optional or wanted[key].path.exists()]
    FIGURES.info("%s: %d of %d keys set and read back; the demo: %s", name, len(found), len(wanted), said.split("\n")[-2])
    assert "All verified" in said
    assert host_values() == before
