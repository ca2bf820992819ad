"""A process of its own that works on jobs: `python -m tests.judges.spender ID,ID,...`"""

from __future__ import annotations

import os
import sys


def main(ids: list[int]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from reviewapp.jobs import batch

    print("ready", flush=True)
    batch.work_here(ids, lambda counts: None)


if __name__ == "__main__":
    main([int(part) for part in sys.argv[1].split(",")])
