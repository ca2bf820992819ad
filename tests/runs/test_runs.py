"""Runs: started with an estimate, followed, paused, resumed, cancelled, and tried again."""

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from graders import registry
from reviewapp.jobs import batch, queue
from reviewapp.models import Grade, Job, LlmCall, Run
from reviewapp.runs.start import start_gradings, start_rollouts
from tests.jobs.judged import judges, make_ideas
from tests.make import make_grader, make_output, make_task
from tests.messages_api import MessagesApi

NO_MODEL = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    for name in NO_MODEL:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api(monkeypatch, tmp_path):
    """A server for the judge, which votes once."""
    with MessagesApi(otherwise=judges()) as server:
        for name, value in {"ANTHROPIC_BASE_URL": server.url, "JUDGE_VOTES": "1", "DATA_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        registry.all_graders.cache_clear()
        yield server
        settings.DATA_DIR = settings_dir
    registry.all_graders.cache_clear()


def gradings(n=4):
    task = make_task()
    run, _ = start_gradings(make_grader(), [make_output(task).pk for _ in range(n)], title="A run", task=task)
    return run


def states(run):
    return sorted(run.jobs.values_list("state", flat=True))


def test_a_run_is_paused_resumed_and_cancelled(as_admin, db):
    run = gradings(3)
    Job.objects.filter(pk=run.jobs.first().pk).update(state="done", finished_at=timezone.now())
    as_admin.post(f"/runs/{run.pk}/pause/")
    assert states(run) == ["done", "paused", "paused"]
    assert queue.claim(run.jobs.filter(state="paused").first().pk, "worker") is None
    as_admin.post(f"/runs/{run.pk}/resume/")
    assert states(run) == ["done", "queued", "queued"]
    as_admin.post(f"/runs/{run.pk}/cancel/")
    assert states(run) == ["cancelled", "cancelled", "done"]


def test_failed_units_are_tried_again_with_a_higher_limit(as_admin, db):
    run = gradings(2)
    run.jobs.update(state="failed", error="spending limit of $1.00")
    page = as_admin.get(f"/runs/{run.pk}/").content.decode()
    assert "spending limit of $1.00" in page
    as_admin.post(f"/runs/{run.pk}/retry/", {"limit_usd": "5"})
    assert states(run) == ["queued", "queued"]
    assert {job.arguments["limit_usd"] for job in run.jobs.all()} == {5.0}
    run.refresh_from_db()
    assert run.arguments["limit_usd"] == 5.0


def test_a_limit_that_is_no_amount_is_refused(as_admin, db):
    response = as_admin.post(f"/runs/{gradings().pk}/retry/", {"limit_usd": "much"})
    assert response.status_code == 422
    assert "limit_usd is &#x27;much&#x27;, allowed: an amount of US dollars above 0" in response.content.decode()


def test_the_page_counts_states_spend_and_rate(as_viewer, db):
    run = gradings(4)
    first, second, *_ = run.jobs.order_by("pk")
    began = timezone.now() - timezone.timedelta(minutes=2)
    Job.objects.filter(pk__in=[first.pk, second.pk]).update(state="done", started_at=began, finished_at=timezone.now())
    for cost in (0.25, 0.5):
        LlmCall.objects.create(scope=run.scope, model="m", reply={}, input_tokens=10, output_tokens=5, cost_usd=cost)
    page = as_viewer.get(f"/runs/{run.pk}/").content.decode()
    assert "$0.75" in page
    assert '<dd class="num">30</dd>' in page  # tokens
    assert "2.0 a minute" in page  # two ended within the last one
    assert "1 min 0 s" in page  # time left for two more


def test_following_stops_when_nothing_is_open(as_viewer, db):
    run = gradings(1)
    htmx = {"headers": {"HX-Request": "true"}}
    assert as_viewer.get(f"/runs/{run.pk}/", **htmx).status_code == 200
    run.jobs.update(state="done", finished_at=timezone.now())
    response = as_viewer.get(f"/runs/{run.pk}/", **htmx)
    assert response.status_code == 286
    assert response.content.decode().lstrip().startswith('<div id="run"')


def test_rollouts_are_one_job_for_each_variant_model_and_number(db):
    task = make_task()
    run = start_rollouts(task, list(task.variants.all()), ["m1", "m2"], 3, limit_usd=2.0)
    jobs = list(run.jobs.order_by("pk"))
    assert [job.unit for job in jobs][:4] == ["default/m1/1", "default/m1/2", "default/m1/3", "default/m2/1"]
    assert (len(jobs), jobs[0].queue, jobs[0].arguments["limit_usd"]) == (6, "rollout", 2.0)
    assert run.scope == f"run {run.pk}"


def test_without_a_model_the_page_says_what_to_set_and_starts_nothing(as_admin, db):
    make_task()
    page = as_admin.get("/runs/new/").content.decode()
    assert "No model can be asked yet" in page
    assert all(name in page for name in (*NO_MODEL, "JUDGE_MODEL", "LLM_PRICES"))
    response = as_admin.post("/runs/new/", {"kind": "rollout", "task": "ideas", "variant": "default", "models": "m", "n": "2"})
    assert (response.status_code, Run.objects.count()) == (422, 0)


def test_rollouts_are_started_after_an_estimate(as_admin, db, api, monkeypatch):
    monkeypatch.setenv("LLM_PRICES", '{"m": {"input": 1, "output": 10}}')
    make_task()
    form = {
        "kind": "rollout",
        "task": "ideas",
        "variant": "default",
        "models": "m",
        "n": "5",
        "limit_usd": "3",
        "turns": "9",
        "effort": "low",
    }
    # 5 rollouts of one turn, 2,000 tokens of answer each: $0.10, and a little for the prompt
    assert "about $0.10" in as_admin.get("/runs/new/", form).content.decode()
    response = as_admin.post("/runs/new/", form)
    run = Run.objects.get()
    assert response.url == f"/runs/{run.pk}/"
    assert (run.jobs.count(), run.arguments["limit_usd"]) == (5, 3.0)
    assert run.arguments["settings"] == {"effort": "low", "turns": 9}
    assert run.arguments["estimate"]["cost_usd"] == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": "nope"}, "task is &#x27;nope&#x27;, allowed: ideas"),
        ({"variant": "nope"}, "variant is &#x27;nope&#x27;, allowed: default"),
        ({"models": ""}, "No model is named."),
        ({"turns": "0"}, "turns is &#x27;0&#x27;, allowed: a whole number from 1 to 500, or empty"),
        ({"effort": "huge"}, "effort is &#x27;huge&#x27;, allowed: low, medium, high, xhigh, max, none"),
        ({"n": "0"}, "n is &#x27;0&#x27;, allowed: a whole number from 1 to 1,000"),
        ({"limit_usd": "-1"}, "limit_usd is &#x27;-1&#x27;, allowed: an amount of US dollars above 0"),
    ],
)
def test_a_run_that_can_not_be_is_refused_with_what_is_allowed(as_admin, db, changed, said):
    make_task()
    response = as_admin.post("/runs/new/", {"kind": "rollout", "task": "ideas", "variant": "default", "models": "m", "n": "5"} | changed)
    assert response.status_code == 422
    assert said in response.content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_judge_grades_a_selection_and_the_run_tells_what_the_server_counted(as_admin, api):
    make_ideas(3)
    judge = next(g for g in registry.for_task("idea_proposal") if g.kind == "llm_judge")
    form = {"kind": "grade", "task": "idea_proposal", "grader": f"judge@{judge.version}", "which": "ungraded"}
    assert "about 3" in as_admin.get("/runs/new/", form).content.decode()
    response = as_admin.post("/runs/new/", form)
    run = Run.objects.get()
    assert response.url == f"/runs/{run.pk}/"
    batch.work_here(list(run.jobs.values_list("pk", flat=True)), lambda counts: None)
    assert (states(run), Grade.objects.count()) == (["done"] * 3, 3)
    assert f'<dd class="num">{api.usage.total:,}</dd>' in as_admin.get(f"/runs/{run.pk}/").content.decode()
    refused = as_admin.post("/runs/new/", form)
    assert (refused.status_code, Run.objects.count()) == (422, 1)
    assert "No output is left to grade" in refused.content.decode()


def test_a_grading_that_another_run_has_open_is_not_made_twice(db):
    task = make_task()
    outputs = [make_output(task).pk for _ in range(2)]
    first, _ = start_gradings(make_grader(), outputs[:1], title="one", task=task)
    second, done = start_gradings(make_grader(), outputs, title="two", task=task)
    assert (first.jobs.count(), second.jobs.count(), len(done.open)) == (1, 1, 1)
    third, _ = start_gradings(make_grader(), outputs, title="three", task=task)
    assert (third, Run.objects.count(), Job.objects.count()) == (None, 2, 2)


def test_who_may_not_start_or_change_runs_is_told(client, as_reviewer, db):
    run = gradings()
    assert as_reviewer.get("/runs/").status_code == as_reviewer.get(f"/runs/{run.pk}/").status_code == 200
    assert as_reviewer.get("/runs/new/").status_code == 403
    assert as_reviewer.post(f"/runs/{run.pk}/cancel/").status_code == 403
    assert client.get("/runs/").status_code == client.get(f"/runs/{run.pk}/").status_code == client.get("/runs/new/").status_code == 302


def test_wrong_methods_and_unknown_runs_are_refused(as_admin, db):
    run = gradings()
    assert as_admin.get(f"/runs/{run.pk}/cancel/").status_code == 405
    assert as_admin.post("/runs/").status_code == 405
    assert as_admin.get("/runs/999/").status_code == as_admin.post(f"/runs/{run.pk}/explode/").status_code == 404
    assert as_admin.get("/runs/?kind=odd").status_code == as_admin.get("/runs/new/?kind=odd").status_code == 400


def test_the_lists_queries_do_not_grow_with_runs_and_jobs(as_viewer, db):
    def count(url):
        with CaptureQueriesContext(connection) as queries:
            as_viewer.get(url)
        return len(queries)

    run = gradings(1)
    few = count("/runs/"), count(f"/runs/{run.pk}/")
    task = run.jobs.first().output.task
    for _ in range(5):
        start_gradings(make_grader(), [make_output(task).pk for _ in range(10)], title="more", task=task)
    assert (count("/runs/"), count(f"/runs/{Run.objects.first().pk}/")) == few
    assert max(few) <= 12


def test_an_import_has_no_page_of_its_own_here(as_viewer, db):
    run = Run.objects.create(kind="import", title="March")
    assert as_viewer.get(f"/runs/{run.pk}/").url == f"/outputs/?run={run.pk}"
