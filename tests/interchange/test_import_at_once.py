"""Imports beside other writers."""

from threading import Barrier, Thread

import pytest
from django.db import connection, transaction

from reviewapp.interchange.bulk import insert_rows, reserve_ids
from reviewapp.interchange.importer import import_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.models import Grade, Output, Prompt, Run
from tests.interchange.files import grade, jsonl, line, rubric_file
from tests.make import code_rubric, make_task

pytestmark = pytest.mark.django_db(transaction=True)


def test_the_same_file_twice_at_once_is_imported_once(tmp_path):
    path, rubric = jsonl(tmp_path, *[line(str(i), prompt="P", grades=[grade()]) for i in range(50)]), rubric_file(tmp_path)
    both_checked, reports, errors = Barrier(2, timeout=60), [], []

    def run() -> None:
        try:
            reports.append(import_file(path, rubric, on_progress=lambda stage, done, total: stage == "Checking" and both_checked.wait()))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(report.outputs_new for report in reports) == [0, 50]
    assert (Output.objects.count(), Grade.objects.count(), Run.objects.count()) == (50, 50, 1)


def test_a_task_whose_rubric_changes_during_the_import_is_refused(tmp_path):
    make_task("ideas")
    path = jsonl(tmp_path, line(task="ideas", grades=[grade(criteria={"viability": {"score": 3}})]))

    def change(stage: str, done: int, total: int) -> None:
        if stage == "Checking":
            make_task("ideas", code_rubric())

    with pytest.raises(ImportRefused, match="the rubric of ideas changed while the file was being read"):
        import_file(path, on_progress=change)
    assert not Output.objects.exists()


def test_reserved_ids_are_never_handed_out_again():
    task = make_task()
    with transaction.atomic():
        ids = reserve_ids(Prompt, 3)
        insert_rows(Prompt, ("id", "task", "sha256", "text"), [(pk, task.pk, f"{pk:064d}", "it's 100 %s of ?") for pk in ids])
    later = Prompt.objects.create(task=task, sha256="later", text="")
    assert later.pk > max(ids)
    assert set(Prompt.objects.filter(pk__in=ids).values_list("text", flat=True)) == {"it's 100 %s of ?"}


def test_rows_of_every_number_come_in():
    task = make_task()
    for n in (0, 1, 31, 32, 33, 64, 65):
        before = Prompt.objects.count()
        with transaction.atomic():
            insert_rows(Prompt, ("task", "sha256", "text"), [(task.pk, f"{n}-{i}", f"text {i}") for i in range(n)])
        assert Prompt.objects.count() == before + n
