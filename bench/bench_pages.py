"""Pages over a large workspace on SQLite: median and p95 of a request, in process, with DEBUG off.

The workspace (outputs with three grades each, bench/workspace.py) is made by the importer once and kept in
BENCH_DIR. The baseline of the list is the same page with offset paging and a count(*) of what matches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest import mock

FOLDER = Path(os.environ.get("BENCH_DIR", Path(tempfile.gettempdir()) / "touchstone-bench"))
BAR_MS = 150
REPEATS, COLD_REPEATS = 30, 5


def run(n: int = 100_000) -> list[dict[str, Any]]:
    folder = FOLDER / f"pages-{n}"
    folder.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "DATA_DIR": str(folder),
        **{"DEMO": "1", "DEBUG": "0", "DATABASE_URL": "", "LOG_LEVEL": "ERROR", "DJANGO_SETTINGS_MODULE": "reviewapp.settings"},
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.bench_pages", "measure", str(n)], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(n: int) -> list[dict[str, Any]]:
    """In a process of its own, which has the workspace as its database."""
    from django.core.management import call_command  # noqa: PLC0415 - Django is set up by main

    from bench.workspace import build_workspace  # noqa: PLC0415
    from reviewapp.outputs.search import index_new  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    build_workspace(n, FOLDER)
    start = time.perf_counter()
    indexed = index_new()
    index_s = time.perf_counter() - start
    clients = {role: client_of(role) for role in ("admin", "reviewer")}
    rows = []
    for name, path, options in pages_of(n):
        client = clients[options.get("who", "admin")]
        rows.append({"name": name, **time_page(client, path, is_cold=options.get("is_cold", False)), "unit": "ms", "bar": BAR_MS})
        if "offset" in options:
            with offset_paging(options["offset"]):
                found = time_page(client, path, is_cold=options.get("is_cold", False))
            rows[-1] |= {"baseline": "offset paging, count(*)", "baseline_value": found["value"]}
    if indexed:
        rows.append({"name": "search index, after an import", "value": indexed / index_s, "unit": "outputs/s", "better": "higher"})
    return rows


def client_of(role: str) -> Any:
    from django.test import Client  # noqa: PLC0415

    from reviewapp.models import User  # noqa: PLC0415

    user, _ = User.objects.update_or_create(username=f"bench-{role}", defaults={"role": role, "works_blind": role == "reviewer"})
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    return client


def pages_of(n: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, address, and options: who asks, whether nothing is cached, the offset of the same page for the baseline."""
    from reviewapp.models import Output, OutputBody  # noqa: PLC0415
    from reviewapp.outputs.paging import Cursor  # noqa: PLC0415

    latest = Output.objects.filter(is_latest=True)
    middle = latest.filter(judge_score__isnull=False).order_by("-judge_score", "-id")[n // 2]
    deep = f"sort=-judge&after={Cursor(middle.judge_score, middle.pk)}"
    words = OutputBody.objects.get(output=latest[n // 3]).content.split()
    rare = max(words, key=len)
    yield "home, nothing cached", "/", {"is_cold": True}
    yield "home", "/", {}
    yield "outputs, first page, nothing cached", "/outputs/", {"is_cold": True, "offset": 0}
    yield "outputs, first page", "/outputs/", {"offset": 0}
    yield "outputs, first page, judge hidden", "/outputs/", {"who": "reviewer"}
    yield "outputs, filtered", "/outputs/?task=bench_half&label=labelled&model=model-1&passed=pass", {"offset": 0}
    yield "outputs, filter that keeps nothing", "/outputs/?disagreement_min=9&sort=-judge", {"offset": 0}
    yield "outputs, sorted by judge score", "/outputs/?sort=-judge", {"offset": 0}
    yield "outputs, one task by human score", "/outputs/?task=bench_large&sort=human", {"offset": 0}
    yield "outputs, page in the middle by judge score", f"/outputs/?{deep}", {"offset": n // 2}
    yield "outputs, search for a rare word", f"/outputs/?q={rare}", {"offset": 0}
    yield "outputs, search for a frequent word", f"/outputs/?q={words[0]}", {"offset": 0}
    yield "outputs, search sorted by judge score", f"/outputs/?q={words[0]}&sort=-judge", {"offset": 0}
    yield "review", f"/outputs/{latest[n // 2].pk}/", {"who": "reviewer"}
    yield "review, next", "/review/next?task=bench_large", {"who": "reviewer"}


def time_page(client: Any, path: str, *, is_cold: bool) -> dict[str, Any]:
    from django.core.cache import cache  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415
    from django.test.utils import CaptureQueriesContext  # noqa: PLC0415

    def get() -> float:
        if is_cold:
            cache.clear()
        start = time.perf_counter()
        response = client.get(path)
        assert response.status_code in (200, 302), f"{path}: {response.status_code}"
        return 1000 * (time.perf_counter() - start)

    get()
    times = sorted(get() for _ in range(COLD_REPEATS if is_cold else REPEATS))
    with CaptureQueriesContext(connection) as queries:
        get()
    return {"value": median(times), "p95": quantiles(times, n=20)[-1], "queries": len(queries)}


@contextmanager
def offset_paging(offset: int) -> Iterator[None]:
    """The same page, but what is shown is found by OFFSET, and counted by count(*) each time."""
    from django.db.models import F  # noqa: PLC0415

    from reviewapp.outputs import views  # noqa: PLC0415
    from reviewapp.outputs.paging import PAGE_SIZE, Page  # noqa: PLC0415

    def read_page(outputs: Any, order: Any, cursor: Any, **_: Any) -> Page:
        column = F(order.column.field)
        in_order = column.desc(nulls_last=True) if order.descending else column.asc(nulls_last=True)
        outputs.count()
        return Page(list(outputs.order_by(in_order, "-id" if order.descending else "id")[offset : offset + PAGE_SIZE]), None)

    with mock.patch.object(views, "read_page", read_page):
        yield


def table(rows: list[dict[str, Any]], show: Callable[[str], None] = print) -> None:
    for row in rows:
        baseline = f"{row['baseline_value']:>10.1f}" if "baseline_value" in row else f"{'':>10}"
        show(f"{row['name']:<46}{row['value']:>9.1f}{row.get('p95', 0):>9.1f} {row['unit']:<10}{row.get('queries', ''):>4}{baseline}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["measure"])
    parser.add_argument("number", nargs="?", type=int)
    parser.add_argument("--n", type=int, default=100_000)
    options = parser.parse_args()
    if options.what:
        import django  # noqa: PLC0415

        django.setup()
        print(json.dumps(measure(options.number)))
    else:
        table(run(options.n))


if __name__ == "__main__":
    main()
