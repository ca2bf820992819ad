"""The embedded broker: a message is a file, a queue is a folder. For one machine, with nothing to install.

kombu's own filesystem transport was tried first (docs/jobs.md has the figures): it opens a message under its final
name before it writes to it, so that a reader may take it while it is empty, which loses the message and ends the
worker; and it keeps tables of exchanges and of readers that grow. Here a message is written beside its place and
renamed into it, is taken by a rename that one reader alone can win, and goes to the queue named by its routing key.

There is no redelivery: what a killed reader had taken is gone. The job table makes up for that (jobs/queue.py).
There is no fanout either, so `celery inspect` and `celery control` do not work on it.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps, loads

PART, TAKEN = ".part", ".taken"
# A worker looks whether it should stop only between two waits for a message, which Celery lets last 2 s.
WAIT_S = 0.5
LEFTOVER_S = 3600

log = logging.getLogger(__name__)


class Channel(virtual.Channel):
    """Queues below the folder named by the transport option `folder`. File names sort by time."""

    def _folder(self, queue: str) -> Path:
        return Path(self.connection.client.transport_options["folder"]) / queue

    def _new_queue(self, queue: str, **_: Any) -> None:
        self._folder(queue).mkdir(parents=True, exist_ok=True)

    def _queue_bind(self, *_: Any) -> None:
        """Nothing to keep: see get_table."""

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """An exchange leads to the queue of its name. Celery's events have none: nobody would read them."""
        return [(exchange, "", exchange)] if self._folder(exchange).is_dir() else []

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self._new_queue(queue)
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"
        part = self._folder(queue) / (name + PART)
        part.write_bytes(dumps(message).encode())
        part.rename(part.with_suffix(".msg"))

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        for name in self._messages(queue):
            waiting = self._folder(queue) / name
            taken = waiting.with_suffix(TAKEN)
            try:
                waiting.rename(taken)
            except FileNotFoundError:
                continue  # another reader won it
            data = taken.read_bytes()
            taken.unlink()
            try:
                message: dict[str, Any] = loads(data)
            except ValueError:
                log.warning("dropped %s of %s: it is no message", name, queue)
                continue
            return message
        raise Empty

    def _messages(self, queue: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder(queue)) if name.endswith(".msg"))
        except FileNotFoundError:
            return []

    def _size(self, queue: str) -> int:
        return len(self._messages(queue))

    def _purge(self, queue: str) -> int:
        names = self._messages(queue)
        for name in names:
            (self._folder(queue) / name).unlink(missing_ok=True)
        return len(names)


class Transport(virtual.Transport):
    """`filesystem://`, as reviewapp/celery.py names it."""

    Channel = Channel
    default_port = 0
    driver_type = driver_name = "filesystem"
    implements = virtual.Transport.implements.extend(exchange_type=frozenset({"direct"}))
    global_state = virtual.BrokerState()

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = self.global_state

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        super().drain_events(connection, timeout=timeout and min(timeout, WAIT_S))

    def driver_version(self) -> str:
        return "1"


def delete_leftovers(folder: Path) -> int:
    """Delete what kills in the middle of a write or a read left behind over an hour ago; how many there were."""
    count = 0
    for path in folder.glob("*/*"):
        try:
            if path.suffix in (PART, TAKEN) and time.time() - path.stat().st_mtime > LEFTOVER_S:
                path.unlink()
                count += 1
        except FileNotFoundError:
            continue  # gone meanwhile, as it should be
    return count
