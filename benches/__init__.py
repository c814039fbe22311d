"""Benchmarks: bench_core.py of the pure parts, bench_fec.py of parity (`make bench`), loopback.py of both ends as processes."""

# A package, because the tests have a module named loopback as well, and mypy checks both.
