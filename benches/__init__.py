"""Benchmarks: bench_*.py (`make bench`), loopback.py, streams.py and sharing.py of both ends as processes,
sweep.py (`make sweep`); bare.py has ends without a session, to compare with.

What benchmarks of processes share: namespace.py, ends.py, load.py, rounds.py, floor.py; line.py is the line between two hosts.
"""

# A package, because the tests have a module named loopback as well, and mypy checks both.
