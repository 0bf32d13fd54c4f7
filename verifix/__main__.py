"""``python -m verifix`` is the command ``verifix``."""

from __future__ import annotations

import sys

from verifix.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
