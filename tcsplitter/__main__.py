"""`python -m tcsplitter`: the command line."""

from tcsplitter.cli import main

main()
