"""``python -m portaloss``."""

from __future__ import annotations

import sys

from portaloss.cli import main

if __name__ == "__main__":
    sys.exit(main())
