"""The embedded broker: each message is read once and whole, and nothing grows."""

import os
import threading
import time
from queue import Empty

import pytest
from kombu import Connection

from reviewapp.jobs import broker


@pytest.fixture
def channel(tmp_path):
    return open_channel(tmp_path)


def open_channel(folder):
    return Connection("filesystem://localhost", transport_options={"folder": str(folder)}).channel()


def files(folder):
    return sorted(path.name for path in folder.glob("*/*"))


def test_messages_come_in_the_order_they_were_sent_and_leave_nothing(channel, tmp_path):
    for number in range(5):
        channel._put("export", {"n": number})
    assert channel._size("export") == 5
    assert [channel._get("export")["n"] for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(Empty):
        channel._get("export")
    assert files(tmp_path) == []


def test_queues_do_not_see_each_others_messages(channel):
    channel._put("export", {})
    with pytest.raises(Empty):
        channel._get("grade-cpu")


def test_four_readers_of_a_busy_queue_get_each_message_once_and_whole(tmp_path):
    got, is_over = [], threading.Event()

    def read():
        channel = open_channel(tmp_path)
        while not is_over.is_set() or channel._size("grade-cpu"):
            try:
                got.append(channel._get("grade-cpu")["n"])
            except Empty:
                time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(4)]
    [reader.start() for reader in readers]
    channel = open_channel(tmp_path)
    for number in range(400):
        channel._put("grade-cpu", {"n": number, "body": "x" * 2000})
    is_over.set()
    [reader.join() for reader in readers]
    assert sorted(got) == list(range(400))


def test_a_message_that_is_being_written_is_not_seen(channel, tmp_path):
    channel._new_queue("export")
    (tmp_path / "export" / f"1-half{broker.PART}").write_text('{"n"')
    with pytest.raises(Empty):
        channel._get("export")


def test_a_file_that_is_no_message_is_dropped_and_the_next_one_read(channel, tmp_path, caplog):
    channel._new_queue("export")
    (tmp_path / "export" / "0.msg").touch()
    channel._put("export", {"n": 1})
    assert channel._get("export") == {"n": 1}
    assert "dropped 0.msg" in caplog.text
    assert files(tmp_path) == []


def test_leftovers_of_killed_processes_go_after_an_hour(channel, tmp_path):
    channel._put("export", {})
    for name in ("old.part", "old.taken", "new.taken"):
        (tmp_path / "export" / name).touch()
        age = 2 * broker.LEFTOVER_S if name.startswith("old") else 0
        os.utime(tmp_path / "export" / name, (time.time() - age, time.time() - age))
    assert broker.delete_leftovers(tmp_path) == 2
    assert "new.taken" in files(tmp_path)
    assert channel._size("export") == 1


def test_events_of_workers_that_nobody_reads_leave_no_files(channel, tmp_path):
    channel.exchange_declare("celeryev", "topic")
    channel.basic_publish(channel.prepare_message("x"), "celeryev", "worker.heartbeat")
    assert files(tmp_path) == []
