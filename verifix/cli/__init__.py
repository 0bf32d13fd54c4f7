"""The command line: one module for each command, with ``add_parser(subparsers)`` and ``run(args) -> int``."""
