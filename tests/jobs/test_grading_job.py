"""A grading job: it writes the grader's grade, or says why there is none."""

from datetime import timedelta

import pytest
from django.utils import timezone

from graders import registry
from graders.sandbox.run import forget_trials
from reviewapp.catalog.sync import save_grader, save_task
from reviewapp.jobs import handlers
from reviewapp.jobs.queue import cancel, enqueue
from reviewapp.jobs.stop import Stop, WorkerStopping
from reviewapp.jobs.work import work_on
from reviewapp.models import Grade, Job, Output
from tasks.task import SHIPPED_TASKS, load_task
from tests.jobs.slow_grader import SlowGrader, slow_output
from tests.make import code_rubric, make_output, make_task

SOURCE = "import torch.nn as nn\n\nclass NeuralMemory(nn.Module):\n    pass\n"


@pytest.fixture
def text_match(db):
    plain = registry.get("text_match")
    return save_grader(plain.name, plain.version, "code", plain.sha256)


@pytest.fixture
def memory_output(db):
    return make_output(save_task(load_task(SHIPPED_TASKS / "neural_memory")), SOURCE)


def work(output, grader):
    job = enqueue("grade", output=output, grader=grader)
    return work_on(job.pk)


def test_the_grade_of_the_grader_is_written_with_its_evidence(memory_output, text_match):
    job = work(memory_output, text_match)
    assert (job.state, job.grade.grader, job.grade.mode) == ("done", text_match, "automatic")
    passed = {score.criterion.key for score in job.grade.criterion_scores.all() if score.passed}
    assert passed == {"memory_class"}
    score = job.grade.criterion_scores.get(criterion__key="memory_class")
    assert score.evidence[0]["line_start"] == 3


def test_the_label_fields_of_the_output_follow_the_grade(memory_output, text_match):
    work(memory_output, text_match)
    memory_output.refresh_from_db()
    assert memory_output.judge_passed is False


def test_the_verdict_is_not_in_the_job(memory_output, text_match):
    assert work(memory_output, text_match).result == {"text": "Graded."}


def test_another_attempt_is_another_grade(memory_output, text_match):
    work(memory_output, text_match)
    work_on(enqueue("grade", output=memory_output, grader=text_match, attempt=2).pk)
    assert memory_output.grades.count() == 2


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ("no sandbox", "no sandbox to run untrusted code in: install bubblewrap"),
        ("crash", "An error in the program, ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_what_keeps_us_from_grading_fails_the_job_and_makes_no_grade(slow, order, error):
    job = work(slow_output(order), slow)
    assert (job.state, job.error) == ("failed", error)
    assert Grade.objects.count() == 0


def test_a_failed_grading_can_be_tried_again(slow):
    output = slow_output("no sandbox")
    work(output, slow)
    output.body.content = "# sleep 0\n"
    output.body.save()
    assert work(output, slow).state == "done"


def test_a_grader_that_changed_since_it_was_asked_for_grades_nothing(memory_output):
    old = save_grader("text_match", "1", "code", "0" * 64)
    job = work(memory_output, old)
    assert job.state == "failed"
    assert "has changed since this was asked for" in job.error


def test_a_grader_of_another_task_is_refused(text_match):
    job = work(make_output(make_task("ideas")), text_match)
    assert "text_match does not grade ideas, it grades: neural_memory" in job.error


def test_an_output_without_content_can_not_be_graded(slow):
    job = work(slow_output(content_missing="scores only"), slow)
    assert job.error == "there is no content to grade: scores only"


def test_the_demo_without_a_sandbox_runs_only_its_own_samples(slow, settings, monkeypatch):
    settings.DEMO = True
    monkeypatch.setenv("ALLOW_UNSAFE_SANDBOX", "1")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(SlowGrader, "runs_code", True)
    forget_trials()
    try:
        refused, sample = work(slow_output(), slow), work(slow_output(is_sample=True), slow)
    finally:
        forget_trials()
    assert "Install bubblewrap" in refused.error
    assert sample.state == "done"


@pytest.mark.django_db(transaction=True)
def test_the_work_stops_when_its_job_is_cancelled(slow, settings):
    settings.JOB_LEASE_S = 0.3
    job = enqueue("grade", output=slow_output("sleep 20"), grader=slow)
    original = SlowGrader.grade

    def grade_and_cancel(self, task, source, **options):
        cancel(Job.objects.get(pk=job.pk))
        return original(self, task, source, **options)

    SlowGrader.grade = grade_and_cancel
    try:
        began = timezone.now()
        ended = work_on(job.pk)
    finally:
        SlowGrader.grade = original
    assert timezone.now() - began < timedelta(seconds=5)
    assert ended.state == "cancelled"
    assert Grade.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_a_grading_longer_than_its_lease_keeps_it(slow, settings):
    settings.JOB_LEASE_S = 0.6
    job = work(slow_output("sleep 1.5"), slow)
    assert (job.state, job.claims) == ("done", 1)


def test_a_kind_whose_code_can_not_be_loaded_fails_with_the_reason(db, monkeypatch):
    monkeypatch.setitem(handlers.HANDLERS, Job.Kind.EXPORT, "reviewapp.nowhere.run")
    job = work_on(enqueue("export").pk)
    assert job.state == "failed"
    assert job.error.startswith("Export jobs can't be done here: reviewapp.nowhere.run can't be loaded")


def test_the_rubric_of_the_grade_is_the_one_that_was_used(slow, monkeypatch):
    output = slow_output()
    used = output.task.rubric
    original = SlowGrader.grade

    def grade_and_change_the_rubric(self, task, source, **options):
        make_task("code", code_rubric(), description="changed", judge_instructions="other")
        return original(self, task, source, **options)

    monkeypatch.setattr(SlowGrader, "grade", grade_and_change_the_rubric)
    job = work(output, slow)
    assert Output.objects.get(pk=output.pk).task.rubric != used
    assert job.grade.rubric == used


@pytest.mark.django_db(transaction=True)
def test_a_stop_asked_for_while_the_job_is_claimed_hands_it_back(slow):
    job = enqueue("grade", output=slow_output(), grader=slow)
    stop = Stop()
    stop.ask()
    with pytest.raises(WorkerStopping):
        work_on(job.pk, stop)
    job.refresh_from_db()
    assert (job.state, job.claims, job.grade) == ("queued", 0, None)


@pytest.mark.django_db(transaction=True)
def test_a_stop_asked_for_while_the_result_is_written_lets_it_be_written(slow, monkeypatch):
    stop = Stop()

    def handler(job, report):
        def write(job):
            stop.ask()
            return {"text": "written"}

        return write

    monkeypatch.setattr("reviewapp.outputs.jobs.run", handler)
    ended = work_on(enqueue("grade", output=slow_output(), grader=slow).pk, stop)
    assert (ended.state, ended.result) == ("done", {"text": "written"})
