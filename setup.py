"""What is compiled: each module with a .pxd beside it, which states the types. All else is in pyproject.toml.

Two variables of the environment ask for another kind of build:

TCSPLITTER_DEBUG=1                      no optimisation, bounds checks, line tracing, assertions
TCSPLITTER_SANITIZE=address,undefined   the compiler's sanitizers of these names, fatal at the first finding; assertions
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("TCSPLITTER_DEBUG") == "1"
sanitizers = os.environ.get("TCSPLITTER_SANITIZE", "")

release_macros: list[tuple[str, str | None]] = [("CYTHON_WITHOUT_ASSERTIONS", "1")]
debug_macros: list[tuple[str, str | None]] = [("CYTHON_TRACE", "1")]
sanitize_flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def compiled(name: str) -> Extension:
    """The extension that this module of the package becomes. The core works on bytes, so it gains by more optimisation."""
    is_core = name == "_core"
    source = f"tcsplitter/{name}.py"
    release_flags = ["-g0", "-O3" if is_core else "-O2"]
    return Extension(
        f"tcsplitter.{name}",
        [source if Path(source).exists() else f"{source}x"],
        depends=["tcsplitter/_gf256.h"] if is_core else [],
        define_macros=debug_macros if debug else [] if sanitizers else release_macros,
        extra_compile_args=(["-g", "-O0", "-UNDEBUG"] if debug else ["-g", "-O1"] if sanitizers else release_flags)
        + (sanitize_flags if sanitizers else []),
        extra_link_args=sanitize_flags if sanitizers else [],
    )


def translated(names: list[str], **directives: bool) -> list[Extension]:
    """These modules as C; cythonize follows the files that they include."""
    # The C is a by-product and differs by kind: beside the sources it would be shipped, or taken for the other kind's.
    build_dir = "build/cython-debug" if debug else "build/cython"
    # Annotations are for people and mypy: an int of theirs has no bounds, and a float may be an int.
    directives |= {"annotation_typing": False, "auto_pickle": False, "linetrace": debug}
    return cythonize([compiled(name) for name in names], build_dir=build_dir, compiler_directives=directives)


typed = sorted(path.stem for path in Path("tcsplitter").glob("*.pxd") if path.stem != "_core")

setup(
    # The core checks all bounds itself, before it reads. The session is Python, where a mistake is an exception and no crash.
    ext_modules=translated(["_core"], boundscheck=debug) + translated(typed, boundscheck=True, nonecheck=True),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
