"""Many reviewers who ask a queue for their next output at the same moment."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection

from reviewapp.queues.claims import claim_next
from reviewapp.queues.draw import Wish, draw_queue
from tests.make import make_output, make_task, make_user

PEOPLE = 6


@pytest.mark.django_db(transaction=True)
def test_people_who_ask_at_once_each_get_an_output_of_their_own():
    task = make_task()
    for _ in range(PEOPLE):
        make_output(task)
    queue = draw_queue(Wish(task, size=PEOPLE, seed=1), None)
    people, start = [make_user(f"person-{i}") for i in range(PEOPLE)], Barrier(PEOPLE)

    def ask(person) -> int:
        start.wait()
        try:
            return claim_next(queue, person).pk
        finally:
            connection.close()

    with ThreadPoolExecutor(PEOPLE) as pool:
        given = list(pool.map(ask, people))
    assert len(set(given)) == PEOPLE
