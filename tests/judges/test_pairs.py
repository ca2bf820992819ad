"""manage.py compare_pairs: which of two outputs is better, and how much the place decides; seen on the judge's page."""

import io
import json

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from graders import registry
from graders.judge.judge import judged_criteria
from reviewapp.calibration.study import study
from reviewapp.models import Grader, JudgedPair, Task
from reviewapp.words import percent
from tests.graders.judging import shipped
from tests.jobs.judged import make_ideas
from tests.make import make_human_grade, make_user
from tests.messages_api import MessagesApi, Says, Status

pytestmark = pytest.mark.django_db(transaction=True)


def says(better):
    rows = dict.fromkeys([c.key for c in judged_criteria(shipped())], better)
    return Says(json.dumps({"criteria": rows, "rationale": "It has evidence.", "better": better}))


def lower_number_wins(body):
    """The ideas of make_ideas have numbers: the one with the lower number is better."""
    told = [int(part.split(" probes")[0].split()[-1]) for part in json.dumps(body["messages"]).split("observed that ")[1:]]
    return says("A" if told[0] < told[1] else "B")


@pytest.fixture
def api(monkeypatch, tmp_path):
    with MessagesApi(otherwise=lower_number_wins) as server:
        for name, value in {"ANTHROPIC_BASE_URL": server.url, "DATA_DIR": str(tmp_path), "LLM_ATTEMPTS": "1"}.items():
            monkeypatch.setenv(name, value)
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        registry.all_graders.cache_clear()
        yield server
        settings.DATA_DIR = settings_dir
    registry.all_graders.cache_clear()


def compare(*more, judge="judge"):
    out, code = io.StringIO(), 0
    try:
        call_command("compare_pairs", "--task", "idea_proposal", "--judge", judge, "--json", *more, stdout=out, stderr=io.StringIO())
    except SystemExit as ended:
        code = ended.code
    return code, json.loads(out.getvalue())


def page_of(client):
    row = Grader.objects.get(name="judge")
    return client.get(f"/judges/judge/{row.version}/").content.decode()


def test_pairs_of_one_prompt_are_compared_in_both_orders_and_asked_once(api):
    make_ideas(4)
    code, told = compare("--limit", "4")
    assert (code, told["done"], told["decided"], told["contradicted"], told["calls"]) == (0, 4, 4, 0, 8)
    for pair in JudgedPair.objects.all():
        assert pair.winner == ("first" if pair.first_id < pair.second_id else "second")
    assert told["position"]["value"] == 0.0
    assert compare()[1]["done"] == 2  # of six pairs
    assert compare()[1]["asked"] == 0
    assert (JudgedPair.objects.count(), len(api.asked)) == (6, 12)


def test_a_judge_that_favours_the_first_place_is_shown_to(api, as_admin, as_reviewer):
    api.otherwise = lambda body: says("A" if "observed that 3" not in json.dumps(body["messages"]) else "tie")
    make_ideas(4)
    _, told = compare()
    assert (told["contradicted"], told["ties"]) == (3, 3)
    assert told["position"]["value"] == pytest.approx(0.25)  # in half of the pairs always the first: half of (1 + 0) / 2
    assert told["position"]["ci"][0] < 0.25 < told["position"]["ci"][1]
    page = page_of(as_admin)
    assert "In pairs" in page and percent(0.25) in page and "contradicted</span>" in page
    assert "It has evidence." in page and "It has evidence." not in page_of(as_reviewer)  # who works blind sees no verdict


def test_the_calibration_figures_take_the_place_from_the_pairs(api):
    api.otherwise = lambda body: says("A")
    ideas, ana = make_ideas(4), make_user("ana")
    for idea in ideas:
        make_human_grade(idea, ana, dict.fromkeys([c.key for c in judged_criteria(shipped())], 5))
    compare()
    found = study(Task.objects.get(), Grader.objects.get(name="judge"))
    assert found["pooled"]["bias"]["position"]["value"] == pytest.approx(0.5)


def test_what_could_not_be_asked_is_listed_and_asked_again_next_time(api):
    make_ideas(3)
    api.script = [Status(401)] * 2
    code, told = compare()
    assert (code, told["done"] + len(told["failed"])) == (3, 3)
    assert "ANTHROPIC_API_KEY" in told["failed"][0]["reason"]
    assert (compare()[0], JudgedPair.objects.count()) == (0, 3)


def test_answers_that_could_not_be_used_are_counted_and_say_nothing_of_the_place(api):
    api.otherwise = lambda body: Says("I would rather not say.")
    make_ideas(3)
    out = io.StringIO()
    call_command("compare_pairs", "--task", "idea_proposal", "--judge", "judge", stdout=out, stderr=io.StringIO())
    assert "3 without a usable answer" in out.getvalue()
    assert "not defined, because no answer about a pair could be used" in out.getvalue()


@pytest.mark.parametrize(
    ("more", "why"),
    [(["--limit", "0"], "limit is 0, allowed: 1 to 10,000"), (["--limit-usd", "-1"], "limit-usd is -1.0, must be above 0")],
)
def test_bad_usage_says_what_is_allowed(api, more, why):
    make_ideas(2)
    with pytest.raises(CommandError, match=why) as error:
        compare(*more)
    assert error.value.returncode == 2
