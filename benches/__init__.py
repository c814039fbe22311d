"""Benchmarks: bench_core.py of the pure parts (`make bench`), loopback.py of both ends as processes."""
