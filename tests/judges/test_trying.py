"""A judge version is tried on as many labelled outputs as one wants, up to what it may cost."""

import pytest

from graders import registry
from graders.judge.judge import Judge
from reviewapp.judges import versions
from reviewapp.models import Run
from tests.jobs.judged import make_ideas
from tests.make import make_human_grade

pytestmark = pytest.mark.django_db
SCORES = dict.fromkeys(("viability", "upside", "success", "novelty"), 7)


@pytest.fixture(autouse=True)
def setup(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LLM_PRICES", '{"m": {"input": 0, "output": 1000}}')  # an answer is guessed at 2,000 tokens: $2
    registry.all_graders.cache_clear()
    yield
    registry.all_graders.cache_clear()


@pytest.fixture
def labelled(reviewer):
    outputs = make_ideas(8)
    for output in outputs[:6]:
        make_human_grade(output, reviewer, SCORES)
    return {output.pk for output in outputs[:6]}


def judge(**changed):
    plain = Judge(**{"name": "strict", "model": "m", "effort": None, "thinking": False, "votes": 1, "max_tokens": 4000, **changed})
    return versions.save_version(plain)[0].grader


def url(grader, action=""):
    return f"/judges/{grader.name}/{grader.version}/{action}"


def estimate(client, grader, **asked):
    htmx = {"HX-Request": "true", "HX-Target": "estimate-idea_proposal"}
    return client.get(url(grader), {"task": "idea_proposal", **asked}, headers=htmx)


def test_the_estimate_follows_what_is_asked_for(as_admin, labelled):
    grader = judge()
    page = as_admin.get(url(grader)).content.decode()
    assert "6 of 6: about $12.00, 6 calls" in page
    part = estimate(as_admin, grader, n="2").content.decode()
    assert part.startswith('<p id="estimate-idea_proposal"') and "2 of 6: about $4.00, 2 calls" in part
    assert "The limit stops it after about 2." in estimate(as_admin, grader, n="5", limit_usd="4.5").content.decode()
    assert "limit stops" not in estimate(as_admin, grader, n="2", limit_usd="4.5").content.decode()


def test_without_javascript_the_page_shows_the_estimate_too(as_admin, labelled):
    page = as_admin.get(url(judge()), {"task": "idea_proposal", "n": "3", "limit_usd": "1"}).content.decode()
    assert "3 of 6: about $6.00" in page and 'value="3"' in page and "stops it after about 0" in page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"n": "7"}, "n is &#x27;7&#x27;, allowed: a whole number from 1 to 6, or empty for all"),
        ({"n": "x"}, "n is &#x27;x&#x27;, allowed: a whole number from 1 to 6, or empty for all"),
        ({"limit_usd": "0"}, "limit_usd is &#x27;0&#x27;, allowed: an amount of US dollars above 0, or empty"),
    ],
)
def test_what_can_not_be_is_refused_with_what_is_allowed(as_admin, labelled, asked, said):
    grader = judge()
    shown, started = estimate(as_admin, grader, **asked), as_admin.post(url(grader, "try/"), {"task": "idea_proposal", **asked})
    assert (shown.status_code, started.status_code, Run.objects.count()) == (422, 422, 0)
    assert said in shown.content.decode() and said in started.content.decode()


def test_a_trial_grades_as_many_as_asked_for_within_its_limit_and_each_version_meets_the_same(as_admin, labelled):
    met = []
    for grader in (judge(), judge(max_tokens=5000)):
        as_admin.post(url(grader, "try/"), {"task": "idea_proposal", "n": "3", "limit_usd": "5"})
        run = Run.objects.first()
        assert (run.arguments["limit_usd"], run.arguments["outputs"]) == (5.0, "3 of 6 labelled")
        assert {job.arguments["limit_usd"] for job in run.jobs.all()} == {5.0}
        met.append(set(run.jobs.values_list("output_id", flat=True)))
    assert met[0] == met[1] < labelled and len(met[0]) == 3


def test_an_estimate_of_a_task_without_labels_is_missing(as_admin, labelled):
    assert estimate(as_admin, judge(), task="nope").status_code == 404
