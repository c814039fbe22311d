"""Benchmarks: bench_core.py of the pure parts, bench_fec.py of parity (`make bench`), loopback.py of both ends as processes.

What benchmarks of processes share: namespace.py, ends.py, load.py, rounds.py.
"""

# A package, because the tests have a module named loopback as well, and mypy checks both.
