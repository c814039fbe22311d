"""The package as it is shipped: source distribution, wheel from that, and the wheel where there is no compiler."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

pytestmark = pytest.mark.slow  # all is compiled once more; CI runs these as well

ROOT = Path(__file__).parent.parent
SHIPPED_FOLDERS = ("benches", "sysctl", "tcsplitter", "tests", "utils")
BUILT = (".so", ".pyc")


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(tree: Path, kind: str) -> Path:
    run(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", tree / "dist", cwd=tree)
    (made,) = (tree / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with all by-products of a build but setuptools' list of files, which would hide what MANIFEST.in lacks."""
    left_out = ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", ".benchmarks", "__pycache__", "*.egg-info", "dist")
    return copytree(ROOT, tmp_path_factory.mktemp("package") / "tree", ignore=left_out)


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return build(tree, "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("tar", "-xzf", sdist, cwd=folder)
    (unpacked,) = folder.iterdir()
    return build(unpacked, "wheel")


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel in it, installed where no compiler can be found."""
    home = tmp_path_factory.mktemp("home")
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=home)
    (home / "empty").mkdir()
    install = (sys.executable, "-m", "pip", "--python", home / "env/bin/python", "install", "--no-index", "--no-deps", wheel)
    run(*install, cwd=home, env={**os.environ, "PATH": str(home / "empty"), "CC": "false"})
    (site,) = home.glob("env/lib/python*/site-packages")
    # What the package depends on is taken from here, so the test needs no network.
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return home / "env/bin/python"


def test_sdist_holds_all_sources_and_nothing_built(tree: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    shipped = {path for folder in SHIPPED_FOLDERS for path in (tree / folder).rglob("*")} | set(tree.glob("*.md"))
    expected = {str(path.relative_to(tree)) for path in shipped if path.is_file() and path.suffix not in BUILT}
    expected |= {".ci/run", "LICENSE", "MANIFEST.in", "Makefile", "pyproject.toml", "setup.py"}
    made_by_setuptools = {name for name in names if name.startswith("tcsplitter.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made_by_setuptools == expected


def test_wheel_holds_the_package_and_no_sources_of_the_core(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {f"tcsplitter/{path.name}" for path in (tree / "tcsplitter").glob("*.py")}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    compiled = {f"tcsplitter/{path.stem}{suffix}" for path in (tree / "tcsplitter").glob("*.pxd")}
    assert names == modules | compiled | {"tcsplitter/_core.pyi", "tcsplitter/_tcp.pyi", "tcsplitter/py.typed"}


def test_wheel_works_without_a_compiler(python: Path) -> None:
    path = run(python, "-I", "-W", "error", "-c", "import tcsplitter._core as c; print(c.__file__)", cwd=python.parent)
    assert Path(path.strip()).is_relative_to(python.parent.parent)


def test_command_is_installed(python: Path) -> None:
    assert "Usage" in run(python.parent / "tcsplitter", "--help", cwd=python.parent)
    assert "Usage" in run(python, "-I", "-m", "tcsplitter", "--help", cwd=python.parent)
