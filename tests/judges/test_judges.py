"""Judges: versions that never change, an editor, a try on the labelled outputs, and what counts."""

import re
from dataclasses import replace
from html import unescape
from urllib.parse import unquote

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.utils import DatabaseError
from django.test.utils import CaptureQueriesContext

from graders import registry
from graders.judge.judge import TEMPLATE, Judge
from reviewapp.catalog.sync import save_grader
from reviewapp.jobs import batch
from reviewapp.judges import versions
from reviewapp.models import Grade, Job, JudgeVersion, Output, Promotion, Run, Task
from reviewapp.models.append_only import AppendOnlyError
from tests.jobs.judged import judges, make_idea_task, make_ideas
from tests.make import make_grader, make_human_grade, make_judge_grade, make_output, make_task
from tests.messages_api import MessagesApi

ALL = ("viability", "upside", "success", "novelty")
FORM = {"name": "strict", "model": "m", "effort": "low", "thinking": "0", "votes": "1", "max_tokens": "4000", "template": TEMPLATE}


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api(monkeypatch, tmp_path):
    with MessagesApi(otherwise=judges(8)) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("DATA_DIR", str(tmp_path))
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        yield server
        settings.DATA_DIR = settings_dir


def strict():
    return versions.save_version(Judge(name="strict", model="m", effort="low", thinking=False, votes=1, max_tokens=4000))[0]


def url(saved, action=""):
    return f"/judges/{saved.grader.name}/{saved.grader.version}/{action}"


def scored(output, score, version="1", name="judge"):
    return make_judge_grade(output, dict.fromkeys(ALL, score), make_grader(name, version))


def test_the_editor_makes_a_new_version_and_the_same_content_makes_none(as_admin, db):
    response = as_admin.post("/judges/new/", FORM | {"note": "Harder on novelty"})
    saved = JudgeVersion.objects.get()
    assert response.url == url(saved)
    assert (saved.grader.version, saved.judge.votes, saved.judge.effort) == (saved.judge.version, 1, "low")
    as_admin.post("/judges/new/", FORM)
    assert JudgeVersion.objects.count() == 1
    as_admin.post("/judges/new/", FORM | {"template": TEMPLATE + "\nBe brief."})
    assert JudgeVersion.objects.count() == 2
    page = as_admin.get(url(saved)).content.decode()
    assert "Harder on novelty" in page and "{{instructions}}" in page


def test_a_version_can_not_be_changed_or_deleted(db):
    saved = strict()
    saved.votes = 25
    with pytest.raises(AppendOnlyError):
        saved.save()
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE reviewapp_judgeversion SET votes = 25")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "a@b"}, "name is &#x27;a@b&#x27;, allowed: 1 to 60 characters without @ and /"),
        ({"model": ""}, "model is &#x27;&#x27;, allowed: 1 to 200 characters"),
        ({"effort": "huge"}, "effort is &#x27;huge&#x27;, allowed: low, medium, high, xhigh, max, none"),
        ({"votes": "99"}, "votes is &#x27;99&#x27;, allowed: a whole number from 1 to 25"),
        ({"template": "no places"}, "The prompt lacks {{instructions}}, it must hold:"),
    ],
)
def test_a_judge_that_can_not_be_is_refused_with_what_is_allowed(as_admin, db, changed, said):
    response = as_admin.post("/judges/new/", FORM | changed)
    assert (response.status_code, JudgeVersion.objects.count()) == (422, 0)
    assert said in response.content.decode()


def test_the_editor_begins_as_the_version_it_is_asked_for(as_admin, db):
    saved = strict()
    page = as_admin.get(f"/judges/new/?from=strict%40{saved.grader.version}").content.decode()
    assert 'value="strict"' in page and 'value="4000"' in page


def test_the_editor_says_when_there_is_no_version_to_begin_as(as_admin, db):
    saved = strict()
    response = as_admin.get("/judges/new/?from=zzz")
    page = unescape(response.content.decode())
    assert response.status_code == 422
    assert page.count("from is 'zzz', allowed: ") == 1 and f"strict@{saved.grader.version}" in page
    setup = next(g for g in registry.all_graders() if g.kind == "llm_judge")
    assert as_admin.get("/judges/new/", {"from": f"{setup.name}@{setup.version}"}).status_code == 200


def test_the_request_about_an_output_is_shown_without_asking_a_model(as_admin, db):
    (output,) = make_ideas(1)
    look = FORM | {"look": "1", "output": str(output.pk)}
    page = as_admin.post("/judges/new/", look, headers={"HX-Request": "true", "HX-Target": "preview"}).content.decode()
    assert page.lstrip().startswith('<section id="preview"')
    assert "We observed that 0 probes fail." in page and "Potential upside" in page
    assert JudgeVersion.objects.count() == 0
    assert as_admin.post("/judges/new/", look | {"output": "nope"}).status_code == 422


def test_without_a_model_the_pages_say_what_to_set_and_nothing_is_asked(as_admin, db):
    saved = strict()
    for address in ("/judges/", url(saved)):
        assert "ANTHROPIC_API_KEY" in as_admin.get(address).content.decode()
    response = as_admin.post(url(saved, "try/"), {"task": "ideas"})
    assert (response.status_code, Run.objects.count()) == (422, 0)


@pytest.mark.django_db(transaction=True)
def test_a_version_is_tried_on_the_labelled_outputs_as_a_run(as_admin, api, reviewer):
    labelled, _ = make_ideas(2)
    make_human_grade(labelled, reviewer, dict.fromkeys(ALL, 7))
    scored(labelled, 3)
    saved = strict()
    assert "1 of 1: cost unknown, 1 call," in as_admin.get(url(saved)).content.decode()
    response = as_admin.post(url(saved, "try/"), {"task": "idea_proposal"})
    run = Run.objects.get()
    assert response.url == f"/runs/{run.pk}/"
    batch.work_here(list(run.jobs.values_list("pk", flat=True)), lambda counts: None)
    assert list(Grade.objects.filter(grader=saved.grader).values_list("output", "overall")) == [(labelled.pk, 8.0)]
    page = as_admin.get(url(saved)).content.decode()
    assert f"/calibration/idea_proposal/compare/?a=judge%401&amp;b=strict%40{saved.grader.version}" in page


@pytest.mark.django_db(transaction=True)
def test_a_version_is_asked_about_one_output(as_admin, api):
    (output,) = make_ideas(1)
    response = as_admin.post(url(strict(), "try/"), {"output": str(output.pk)})
    job = Job.objects.get()
    assert response.url == f"/jobs/{job.pk}/"
    batch.work_here([job.pk], lambda counts: None)
    assert output.grades.get().overall == 8.0
    assert as_admin.post(url(strict(), "try/"), {"output": "999"}).status_code == 422


def test_promoting_changes_whose_verdict_counts_and_is_undone_by_one_more_row(as_admin, db):
    task = make_task()
    output = make_output(task)
    scored(output, 4, "1")
    scored(output, 9, "2")
    assert Output.objects.get().judge_score == 9.0  # unpinned: the newest
    as_admin.post("/judges/judge/1/promote/", {"task": "ideas"})
    assert (Task.objects.get().primary_grader, Output.objects.get().judge_score) == ("judge@1", 4.0)
    as_admin.post(f"/judges/promotions/{Promotion.objects.get().pk}/undo/")
    assert (Task.objects.get().primary_grader, Output.objects.get().judge_score) == ("judge", 9.0)
    assert list(Promotion.objects.values_list("primary_grader", flat=True)) == ["judge@1", "judge"]


def test_only_the_newest_promotion_is_undone(as_admin, db):
    task = make_task()
    first = versions.promote(task, "judge@1")
    versions.promote(task, "judge@2")
    page = as_admin.post(f"/judges/promotions/{first.pk}/undo/", follow=True).content.decode()
    assert "Only the newest promotion of a task can be undone" in page
    assert Task.objects.get().primary_grader == "judge@2"


def test_a_promotion_survives_a_sync_of_the_tasks(db):
    task = make_idea_task()
    versions.promote(task, "strict@1")
    assert make_idea_task().primary_grader == "strict@1"


def test_trying_another_version_of_the_judge_that_counts_leaves_the_labels(db):
    task = make_task()
    output = make_output(task)
    scored(output, 4, "1")
    tried = versions.save_version(replace(Judge(), name="judge"))[0]
    versions.keep_primary(task, tried.grader)
    scored(output, 9, tried.grader.version)
    assert (Task.objects.get().primary_grader, Output.objects.get().judge_score) == ("judge@1", 4.0)
    promotion = Promotion.objects.get()
    assert promotion.reason == "Kept while another version is tried"


def test_the_list_shows_versions_and_what_they_count_for(as_viewer, db):
    task = make_task(primary_grader="judge")
    scored(make_output(task), 5)
    strict()
    page = as_viewer.get("/judges/").content.decode()
    assert page.index("strict") and '<span class="mark judge">Ideas</span>' in page
    assert "New version" not in page


@pytest.mark.parametrize(("name", "version"), [("meta/llama", "3/b"), ("..", "."), ("50% a+b", "1?#"), ("a%2Fb", "\n"), ("new", "try")])
def test_a_judge_of_any_name_has_a_page_and_can_be_promoted(as_admin, db, name, version):
    scored(make_output(make_task()), 5, version, name)
    address = unescape(re.search(r'href="(/judges/[^"]+/)">', as_admin.get("/judges/").content.decode().partition("<tbody>")[2])[1])
    page = as_admin.get(address)
    assert (page.status_code, page.context["row"].name, page.context["row"].version) == (200, name, version)
    assert not {".", ".."} & set(unquote(address).split("/")), "a browser would take it for a step up"
    assert as_admin.post(f"{address}promote/", {"task": "ideas"}).url == address
    assert Task.objects.get().primary_grader == f"{name}@{version}"


def test_who_may_not_change_judges_is_told(client, as_reviewer, db):
    saved = strict()
    assert as_reviewer.get("/judges/").status_code == as_reviewer.get(url(saved)).status_code == 200
    assert as_reviewer.get("/judges/new/").status_code == 403
    assert as_reviewer.post(url(saved, "promote/"), {"task": "ideas"}).status_code == 403
    assert client.get("/judges/").status_code == client.get(url(saved)).status_code == 302


def test_wrong_methods_and_unknown_judges_are_refused(as_admin, db):
    saved = strict()
    assert as_admin.get(url(saved, "promote/")).status_code == as_admin.get(url(saved, "try/")).status_code == 405
    assert as_admin.get("/judges/nobody/1/").status_code == 404
    response = as_admin.post(url(saved, "promote/"), {"task": "nope"})
    assert response.status_code == 422
    assert "task is &#x27;nope&#x27;" in response.content.decode()


def test_queries_do_not_grow_with_versions_and_grades(as_viewer, db):
    def count(address):
        with CaptureQueriesContext(connection) as queries:
            as_viewer.get(address)
        return len(queries)

    task = make_task()
    scored(make_output(task), 5)
    few = count("/judges/"), count("/judges/judge/1/")
    for number in range(6):
        scored(make_output(task), 5, str(number))
        save_grader(f"other{number}", "1", "llm_judge")
    assert (count("/judges/"), count("/judges/judge/1/")) == few
    assert max(few) <= 16


def test_the_page_of_the_judge_of_the_environment_shows_its_prompt(as_viewer, db):
    setup = next(g for g in registry.all_graders() if g.kind == "llm_judge")
    page = as_viewer.get(f"/judges/{setup.name}/{setup.version}/").content.decode()
    assert "{{rubric}}" in page and "by the environment" in page
