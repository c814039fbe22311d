"""The compiled core; all else is in pyproject.toml. Two variables of the environment ask for another kind of build:

TCSPLITTER_DEBUG=1                      no optimisation, bounds checks, line tracing, assertions
TCSPLITTER_SANITIZE=address,undefined   the compiler's sanitizers of these names, fatal at the first finding; assertions
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("TCSPLITTER_DEBUG") == "1"
sanitizers = os.environ.get("TCSPLITTER_SANITIZE", "")

release_macros: list[tuple[str, str | None]] = [("CYTHON_WITHOUT_ASSERTIONS", "1")]
debug_macros: list[tuple[str, str | None]] = [("CYTHON_TRACE", "1")]
sanitize_flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

core = Extension(
    "tcsplitter._core",
    ["tcsplitter/_core.pyx"],
    depends=["tcsplitter/_gf256.h"],
    define_macros=debug_macros if debug else [] if sanitizers else release_macros,
    extra_compile_args=(["-g", "-O0", "-UNDEBUG"] if debug else ["-g", "-O1"] if sanitizers else ["-O3"])
    + (sanitize_flags if sanitizers else []),
    extra_link_args=sanitize_flags if sanitizers else [],
)

setup(
    # cythonize follows the files that the .pyx includes.
    ext_modules=cythonize(
        [core],
        # The C is a by-product and differs by kind: beside the .pyx it would be shipped, or taken for the other kind's.
        build_dir="build/cython-debug" if debug else "build/cython",
        compiler_directives={"boundscheck": debug, "linetrace": debug},
    )
)
