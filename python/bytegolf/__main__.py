"""`python -m bytegolf` is the command `bytegolf`."""

from bytegolf.cli import main

main()
