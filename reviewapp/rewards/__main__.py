"""The second process of a large export (see second_writer), which is started by the first and not by hand."""

from __future__ import annotations

import gc
import sys

import django


def main() -> None:
    gc.disable()  # as in export.write_export; the start is shorter too
    django.setup()
    from reviewapp.rewards.second_writer import write_spans  # noqa: PLC0415 - models need Django to be set up

    write_spans(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
