"""`python -m proxy`, and the file that another nursery of workers is started from."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started by its path: a nursery is, so that no directory named `proxy` where the user stands is taken for ours
    place = str(Path(__file__).parents[1])
    if place not in sys.path:
        sys.path.insert(0, place)

from proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
