"""A thousand judge calls against a server that takes a second for each: time and memory, against the plain SDK.

The server is the scripted one of the tests, in a process of its own. The judge side is one process with 200 calls in
flight, the call store and the limits in files; the baseline is the same requests by asyncio.gather over the plain SDK.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CALLS, LATENCY_S, IN_FLIGHT = 1_000, 1.0, 200
TIME_BAR_S, MEMORY_BAR_MB = 30.0, 300


def run(n: int = 100_000) -> list[dict[str, Any]]:
    plain = _measure("plain")
    port = _measure("port")
    against = {"baseline": "plain SDK, same concurrency", "baseline_value": plain["seconds"]}
    return [
        {"name": f"{CALLS} judge calls, {LATENCY_S:g} s latency", "value": port["seconds"], "unit": "s", "bar": TIME_BAR_S, **against},
        {"name": "processor time of them", "value": port["cpu"], "unit": "s", "baseline": "plain SDK", "baseline_value": plain["cpu"]},
        {"name": "peak memory", "value": port["peak_mb"], "unit": "MB", "bar": MEMORY_BAR_MB},
        {"name": "memory from 10 % to the end", "value": port["growth_mb"], "unit": "MB", "bar": 40},
        {"name": "tokens told less tokens counted by the server", "value": port["difference"], "unit": "tokens", "bar": 0},
    ]


def _measure(what: str) -> dict[str, float]:
    with _server() as url, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "key", "DATA_DIR": folder, "LLM_IN_FLIGHT": str(IN_FLIGHT)}
        command = [sys.executable, "-m", "bench.bench_judging", what]
        return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)


@contextmanager
def _server() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.bench_judging", "server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.kill()


def serve() -> None:
    from tests.graders.judging import answer, shipped  # noqa: PLC0415
    from tests.messages_api import MessagesApi, Says  # noqa: PLC0415

    said = Says(answer(shipped(), 6.0, quotes=["A cheap test comes first."]).text, wait_s=LATENCY_S)
    with MessagesApi(otherwise=lambda body: said) as api:
        print(api.url, flush=True)
        sys.stdin.read()


def measure_port() -> dict[str, float]:
    """Judges grade through the port: parsing, quotes and storing included."""
    from graders.judge.grader import Asking, JudgeGrader  # noqa: PLC0415
    from graders.judge.judge import Judge  # noqa: PLC0415
    from llm.config import read_config  # noqa: PLC0415
    from llm.port import connect  # noqa: PLC0415
    from tests.graders.judging import shipped  # noqa: PLC0415

    task, judge, memory = shipped(), JudgeGrader(Judge(votes=1), ["idea_proposal"]), [0.0]
    contents = _contents()

    async def work() -> tuple[float, float]:
        async with connect(read_config()) as port:
            told = 0

            async def one(number: int, content: str) -> None:
                nonlocal told
                grade = await judge.grade_with(port, task, content, Asking("bench", str(number), b"secret"))
                told += sum(grade.judge["usage"].values())
                if number == CALLS // 10:
                    memory[0] = _peak_mb()

            began = time.perf_counter()
            await asyncio.gather(*(one(number, content) for number, content in enumerate(contents)))
            seconds = time.perf_counter() - began
            assert port.calls
            return seconds, abs(told - port.calls.totals("bench").usage.total)

    seconds, difference = asyncio.run(work())
    return {"seconds": seconds, "difference": difference, "growth_mb": _peak_mb() - memory[0], **_own()}


def measure_plain() -> dict[str, float]:
    import anthropic  # noqa: PLC0415

    from graders.judge.judge import Judge  # noqa: PLC0415
    from graders.judge.prompt import build_request  # noqa: PLC0415
    from llm.wire import arguments  # noqa: PLC0415
    from tests.graders.judging import shipped  # noqa: PLC0415

    task, judge = shipped(), Judge(votes=1)

    async def work() -> float:
        places = asyncio.Semaphore(IN_FLIGHT)
        async with anthropic.AsyncAnthropic(timeout=120) as client:

            async def one(content: str) -> None:
                async with places, client.messages.stream(**arguments(build_request(judge, task, content, secret=b"s"))) as stream:
                    await stream.get_final_message()

            began = time.perf_counter()
            await asyncio.gather(*(one(content) for content in _contents()))
            return time.perf_counter() - began

    return {"seconds": asyncio.run(work()), **_own()}


def _contents() -> list[str]:
    return [f"# Idea {n}\n\nA cheap test comes first.\n" + "We measure and compare. " * 200 for n in range(CALLS)]


def _own() -> dict[str, float]:
    return {"cpu": time.process_time(), "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve()
    else:
        print(json.dumps({"port": measure_port, "plain": measure_plain}[sys.argv[1]]()))
