"""`manage.py grade` and `regrade`: which outputs, what is told, and the exit code."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from reviewapp.models import Grade, Job, Run
from tests.jobs.slow_grader import slow_output
from tests.make import make_human_grade, make_output, make_task

HERE = ("--here", "--json")


def grade(*options, command="grade"):
    out = io.StringIO()
    call_command(command, "--task", "code", "--grader", "slow", *options, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue()) if "--json" in options else out.getvalue()


def test_without_wait_it_says_how_many_are_queued_and_where_to_look(slow):
    [slow_output() for _ in range(3)]
    assert grade().strip() == f"3 gradings queued, 0 done before: /runs/{Run.objects.get().pk}/"
    assert Job.objects.filter(state="queued").count() == 3


def test_it_grades_every_output_once_however_often_it_runs(slow):
    [slow_output() for _ in range(3)]
    assert grade(*HERE)["done"] == 3
    again = grade(*HERE)
    assert (again["queued"], again["already_done"]) == (0, 3)
    assert Grade.objects.count() == 3


def test_failures_are_listed_with_reasons_and_only_they_are_tried_again(slow):
    good, bad = slow_output(), slow_output("no sandbox", external_id="odd-one")
    out = io.StringIO()
    with pytest.raises(SystemExit) as exit_code:
        call_command("grade", "--task=code", "--grader=slow@1", "--here", stdout=out, stderr=io.StringIO())
    assert exit_code.value.code == 3
    assert f"odd-one (output {bad.pk}): no sandbox to run untrusted code in" in out.getvalue()
    bad.body.content = "# sleep 0\n"
    bad.body.save()
    assert grade(*HERE)["queued"] == 1
    assert good.grades.count() == bad.grades.count() == 1


def test_failures_are_in_the_json_too(slow, capsys):
    bad = slow_output("no sandbox")
    with pytest.raises(SystemExit):
        call_command("grade", "--task=code", "--grader=slow", "--here", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert [(failure["output"], failure["reason"][:10]) for failure in facts["failed"]] == [(bad.pk, "no sandbox")]


def test_regrade_adds_an_attempt_to_what_this_version_has_graded(slow):
    output = slow_output()
    grade(*HERE)
    assert grade(*HERE, command="regrade")["done"] == 1
    assert sorted(output.jobs.values_list("attempt", flat=True)) == [1, 2]
    assert output.grades.count() == 2


def test_outputs_can_be_the_ungraded_the_labelled_or_some(slow, reviewer):
    first, second, third = (slow_output() for _ in range(3))
    make_human_grade(second, reviewer, {"memory_class": 1, "surprise_gate": 1, "learnable_decay": 1})
    assert grade("--outputs", str(first.pk), *HERE)["outputs"] == 1
    assert grade("--outputs", "labelled", "--json")["outputs"] == 1
    assert grade("--outputs", "ungraded", "--json")["outputs"] == 2
    assert grade("--outputs", "all", "--json")["outputs"] == 3
    assert third.jobs.exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--task=nothing", "--grader=slow"], "task is 'nothing', allowed: code"),
        (["--task=code", "--grader=fast"], "no grader fast; there are: .*slow@1"),
        (["--task=code", "--grader=slow@9"], "no grader slow@9"),
        (["--task=code", "--grader=text_match"], "text_match does not grade code"),
        (["--task=code", "--grader=slow", "--outputs=some"], "outputs has 'some', allowed: all, ungraded, labelled or ids"),
        (["--task=code", "--grader=slow", "--outputs=4711"], "output 4711 is not one of this task's"),
    ],
)
def test_bad_usage_says_what_is_allowed_and_makes_no_job(slow, options, why):
    with pytest.raises(CommandError, match=why) as error:
        call_command("grade", *options)
    assert error.value.returncode == 2
    assert Job.objects.count() == 0


def test_outputs_of_other_tasks_are_left_alone(slow):
    slow_output()
    other = make_output(make_task("ideas"))
    grade()
    assert not other.jobs.exists()


@pytest.mark.worker
@pytest.mark.django_db(transaction=True)
def test_wait_follows_the_workers_to_the_end(slow, start_worker, capsys):
    [slow_output("sleep 0.1") for _ in range(4)]
    start_worker(is_awaited=False)
    call_command("grade", "--task=code", "--grader=slow", "--wait", "--json")
    told = capsys.readouterr()
    assert json.loads(told.out)["done"] == 4
    assert "4 of 4 ended" in told.err


@pytest.mark.django_db(transaction=True)
def test_wait_says_so_when_no_worker_takes_the_jobs(slow, monkeypatch):
    from reviewapp.jobs import batch, queue

    monkeypatch.setattr(batch, "NO_WORKER_S", 0.1)
    job_ids = queue.enqueue_gradings([slow_output().pk], slow).to_do
    told = []

    def warn():
        told.append("no worker")
        Job.objects.update(state="cancelled")

    batch.wait_for_jobs(job_ids, lambda counts: None, warn)
    assert told == ["no worker"]
