"""Ask the scripted server through the real SDK, as a program would."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from llm.config import Config, read_config
from llm.port import Port, connect
from llm.types import Reply, Request, ask
from tests.messages_api import MessagesApi

MODEL = "claude-opus-5-5"
_numbers = itertools.count(1)


def config_for(api: MessagesApi, folder: Path, **env: str) -> Config:
    return read_config({"ANTHROPIC_API_KEY": "key", "ANTHROPIC_BASE_URL": api.url, "DATA_DIR": str(folder), **env})


def with_port(api: MessagesApi, folder: Path, work: Callable[[Port], Awaitable[Any]], **env: str) -> Any:
    """Run `work` with a port that waits little between its own attempts."""

    async def run() -> Any:
        async with connect(config_for(api, folder, **env)) as port:
            port.first_wait_s = 0.01
            return await work(port)

    return asyncio.run(run())


def request(text: str = "Hello", **fields: Any) -> Request:
    """A request unlike every other one."""
    return Request(**{"model": MODEL, "turns": (ask(text),), "nonce": str(next(_numbers)), **fields})


def ask_once(api: MessagesApi, folder: Path, asked: Request | None = None, **env: str) -> Reply:
    return with_port(api, folder, lambda port: port.ask(asked or request(), scope="test"), **env)


def ask_many(api: MessagesApi, folder: Path, asked: list[Request], **env: str) -> list[Reply]:
    async def work(port: Port) -> list[Reply]:
        return await asyncio.gather(*(port.ask(one, scope="test") for one in asked))

    return with_port(api, folder, work, **env)
