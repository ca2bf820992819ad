"""POST reward: one reward in [0, 1] for each completion, in order; what has no verdict is null with a reason, never 0."""

import base64
import json

import pytest
from django.conf import settings

from graders import registry
from reviewapp.api import reward
from reviewapp.catalog.sync import save_plain_grader, save_task
from reviewapp.jobs.work import work_on
from reviewapp.models import Calibrator, Grade, Job, LlmCall, Output, Run
from reviewapp.rewards import completions
from tasks.task import SHIPPED_TASKS, load_task
from tests.api.calling import Caller, caller_for, working
from tests.graders.checks import program
from tests.jobs.judged import judges, make_idea_task
from tests.make import at_once, make_human_grade, make_judge_grade, make_output, make_user
from tests.messages_api import MessagesApi, Says, Status

# Words that the keyword grader looks for: three of six, and none.
SOME = "import torch.nn as nn\n\n\nclass NeuralMemory(nn.Module):\n    for t in range(3):\n        outer = 1\n"
NONE = "print('hello')\n"
WORDS = {"task": "neural_memory", "grader": "text_match"}


@pytest.fixture
def api(admin):
    save_task(load_task(SHIPPED_TASKS / "neural_memory"))
    return caller_for(admin, "reward")


def graded(api, body, path="reward"):
    """Ask, let the jobs be done, ask again."""
    api.post(path, {**body, "timeout_s": 0.01})
    for job in Job.objects.filter(state="queued", kind="reward"):
        work_on(job.pk)
    return api.post(path, body)


def test_each_completion_has_its_reward_in_order_with_what_it_is_made_of(api):
    told = graded(api, {**WORDS, "prompts": ["p", "p"], "completions": [SOME, NONE]})
    assert (api.status, told["rewards"], told["scores"]) == (200, [0.5, 0.0], [0.5, 0.0])
    found = told["components"][0]
    assert (found["source"], found["raw_score"], found["scale"], found["passed"]) == ("code", 5.0, [0, 10], False)
    assert found["grader"].startswith("text_match@")
    assert (found["calibrator"], found["interval"]) == (None, None)
    assert [key for key, row in found["criteria"].items() if row["passed"]] == ["memory_class", "outer_product", "recurrent_update"]


def test_the_same_completion_is_graded_once_whoever_asks_and_however_often(api):
    body = {**WORDS, "completions": [SOME, NONE, SOME, SOME]}
    first = graded(api, body)
    assert (first["rewards"], Job.objects.count()) == ([0.5, 0.0, 0.5, 0.5], 2)
    again = caller_for(make_user("zoe", role="admin"), "reward").post("reward", {**body, "completions": [NONE, SOME]})
    assert (again["rewards"], Job.objects.count()) == ([0.0, 0.5], 2)
    assert again["components"][1] == first["components"][0]


def test_nothing_of_it_is_an_output_and_the_text_is_not_kept(api):
    graded(api, {**WORDS, "completions": [SOME]})
    job = Job.objects.get()
    assert (Output.objects.count(), Grade.objects.count(), Run.objects.count()) == (0, 0, 0)
    assert "NeuralMemory" not in json.dumps(job.arguments)
    assert job.unit.endswith(completions.hash_of(SOME))


def test_the_jobs_page_lists_rewards_apart(api, as_viewer):
    graded(api, {**WORDS, "completions": [SOME]})
    number = f'href="/jobs/{Job.objects.get().pk}/"'
    assert number not in as_viewer.get("/jobs/").content.decode()
    page = as_viewer.get("/jobs/?kind=reward").content.decode()
    assert number in page
    assert "a completion of neural_memory" in page
    assert as_viewer.get(f"/jobs/{Job.objects.get().pk}/").status_code == 200


def test_asked_to_store_it_is_an_output_with_its_grade_once(api, admin):
    body = {**WORDS, "prompts": ["Write a memory."], "completions": [SOME], "store": True, "model": "policy-3"}
    told = graded(api, body)
    output = Output.objects.get(pk=told["components"][0]["output"])
    assert (output.body.content, output.prompt.text, output.model, output.variant.name) == (SOME, "Write a memory.", "policy-3", "other")
    grade = output.grades.get()
    assert (grade.overall, grade.grader.name, output.run.created_by) == (5.0, "text_match", admin)
    assert grade.criterion_scores.get(criterion__key="memory_class").evidence[0]["line_start"] == 4
    assert api.post("reward", body)["components"][0]["output"] == output.pk
    assert (Output.objects.count(), Grade.objects.count(), Job.objects.filter(kind="grade", state="done").count()) == (1, 1, 1)


def test_the_program_is_taken_out_of_an_answer_in_markdown(api):
    told = graded(api, {**WORDS, "completions": [f"Here it is:\n\n```python\n{SOME}```\nDone."]})
    assert told["components"][0]["content_sha256"] == completions.hash_of(SOME)


def test_conversations_as_trl_has_them_are_read(api):
    chat = [{"role": "assistant", "content": SOME}]
    told = graded(api, {**WORDS, "prompts": [[{"role": "user", "content": "Write."}]], "completions": [chat]})
    assert told["rewards"] == [0.5]


def test_openrlhf_sends_prompt_and_response_in_one_and_gets_what_it_reads(api):
    query = f"<s><|im_start|>user\nWrite.<|im_end|>\n<|im_start|>assistant\n{SOME}<|im_end|>"
    prompt = "<|im_start|>user\nWrite.<|im_end|>\n<|im_start|>assistant\n"
    body = {"query": [query, query], "prompts": [prompt, "another prompt"], "labels": ["", ""], "grader": "text_match"}
    told = graded(api, body, "reward?task=neural_memory")
    assert told["rewards"] == told["scores"] == [0.5, None]
    assert told["components"][1]["reason"] == "its prompt is not the beginning of its query"
    one = api.post("reward", {**body, "query": [query], "prompts": [prompt], "labels": ['{"task": "neural_memory"}']})
    assert one["extra_logs"] == {
        **{"learnable_decay": [0], "memory_attention_gating": [0], "memory_class": [10], "outer_product": [10]},
        **{"recurrent_update": [10], "surprise_gate": [0]},
    }


def test_a_program_that_can_be_given_an_address_alone_sends_the_token_as_a_password(api):
    basic = base64.b64encode(b"token:" + api.headers["Authorization"].removeprefix("Bearer ").encode()).decode()
    trainer = Caller(**{"Authorization": f"Basic {basic}"})
    assert graded(trainer, {**WORDS, "completions": [SOME]})["rewards"] == [0.5]
    trainer.get("outputs")
    assert trainer.status == 401, "nowhere else"


def test_completions_without_a_verdict_are_null_with_a_reason(api, monkeypatch):
    monkeypatch.setattr("reviewapp.api.reward_body.MOST_CHARS", 200)
    told = graded(api, {**WORDS, "completions": ["  ", "x" * 201, NONE]})
    assert told["rewards"] == [None, None, 0.0]
    assert [row.get("reason") for row in told["components"]] == [
        *("the completion is empty", "the completion has 201 characters, at most 200 are graded", None),
    ]


def test_what_is_not_ready_in_time_is_null_and_is_there_when_asked_again(api):
    body = {**WORDS, "completions": [SOME], "timeout_s": 0.01}
    told = api.post("reward", body)
    assert (told["rewards"], told["components"][0]["reason"]) == ([None], "not graded within 0.01 s: the work goes on, ask again")
    work_on(Job.objects.get().pk)
    assert api.post("reward", body)["rewards"] == [0.5]


def test_without_a_worker_the_answer_is_503_and_says_how_to_start_one(api, monkeypatch):
    monkeypatch.setattr(completions, "NO_WORKER_S", 0.2)
    told = api.post("reward", {**WORDS, "completions": [SOME]})
    assert (api.status, "make worker" in told["error"], api.response["Retry-After"]) == (503, True, "10")
    work_on(Job.objects.get().pk)
    assert api.post("reward", {**WORDS, "completions": [SOME]})["rewards"] == [0.5]


def test_more_calls_than_may_wait_are_asked_to_come_again(api):
    taken = [reward._waiting.acquire(blocking=False) for _ in range(reward.AT_ONCE)]
    try:
        told = api.post("reward", {**WORDS, "completions": [SOME]})
    finally:
        for _ in taken:
            reward._waiting.release()
    assert (api.status, api.response["Retry-After"], "ask again" in told["error"]) == (429, "1", True)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"completions": ["x"]}, "body.task is None"),
        ({"task": "nope", "completions": ["x"]}, "There are: neural_memory"),
        ({"task": "neural_memory"}, "either completions"),
        ({"task": "neural_memory", "completions": []}, "1 to 256 in one call"),
        ({"task": "neural_memory", "completions": ["x"] * 257}, "1 to 256 in one call"),
        ({"task": "neural_memory", "completions": ["x", "y"], "prompts": ["p"]}, "2, as many as completions"),
        ({"task": "neural_memory", "completions": ["x"], "grader": "nope"}, "neural_memory@1"),
        ({"task": "neural_memory", "completions": ["x"], "colour": 1}, "no such field; there are: task, prompts"),
        ({"task": "neural_memory", "completions": ["x"], "timeout_s": 900}, "less than or equal to 170"),
        ({"task": "neural_memory", "completions": [3]}, "body.completions[0]"),
    ],
)
def test_a_body_that_can_not_be_read_is_refused_before_anything_is_graded(api, body, told):
    answer = api.post("reward", body)
    assert (api.status, told in answer["error"], Job.objects.count()) == (422, True, 0), answer


def test_a_body_that_is_too_long_is_413(api):
    api.post("reward", {**WORDS, "completions": ["x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE]})
    assert (api.status, Job.objects.count()) == (413, 0)


def test_only_an_admin_s_token_has_things_graded(reviewer, api):
    other = caller_for(reviewer, "reward")
    assert "role of admin" in other.post("reward", {**WORDS, "completions": [SOME]})["error"]
    assert (other.status, Job.objects.count()) == (403, 0)


def test_what_was_graded_long_ago_is_forgotten(api, monkeypatch):
    graded(api, {**WORDS, "completions": [SOME]})
    monkeypatch.setattr(completions, "KEPT", completions.timedelta(0))
    completions.cache.clear()
    api.post("reward", {**WORDS, "completions": [NONE], "timeout_s": 0.01})
    assert [job.unit.partition("/")[2] for job in Job.objects.all()] == [completions.hash_of(NONE)]


# --- a judge and its calibrator ---------------------------------------------------------------------------


@pytest.fixture
def judge_api(monkeypatch, tmp_path):
    """A server for the judge, which votes once."""
    with MessagesApi(otherwise=judges(8)) as server:
        for name, value in {"ANTHROPIC_BASE_URL": server.url, "JUDGE_VOTES": "1", "DATA_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        settings_dir, settings.DATA_DIR = settings.DATA_DIR, tmp_path
        registry.all_graders.cache_clear()
        yield server
        settings.DATA_DIR = settings_dir
    registry.all_graders.cache_clear()


@at_once
def label_20(task, person, always=None):
    """The judge says 2 to 9, the person two points less, or always the same."""
    row = save_plain_grader(registry.get("judge"))
    keys = [c.key for c in task.rubric.criteria.all()]
    for i in range(20):
        output = make_output(task)
        make_judge_grade(output, dict.fromkeys(keys, 2.0 + i % 8), row)
        make_human_grade(output, person, dict.fromkeys(keys, i % 8 + 0.5 * (i % 2) if always is None else always))


@pytest.mark.django_db(transaction=True)
def test_a_judge_s_score_is_put_as_people_would_give_it_and_the_calibrator_is_named(admin, judge_api):
    api, task = caller_for(admin, "reward"), make_idea_task()
    label_20(task, make_user("bo"))
    body = {"task": task.slug, "prompts": ["Propose."] * 16, "completions": [f"# Idea {i}\n\nA cheap test comes first." for i in range(16)]}
    judge_api.otherwise = judges(8, wait_s=0.5)
    told = graded(api, body)
    assert (len(set(told["rewards"])), len(judge_api.asked)) == (1, 16)
    assert judge_api.most_in_flight > 4, "many calls at once"
    found = told["components"][0]
    assert (found["source"], found["raw_score"]) == ("calibrated_judge", 8.0)
    assert told["rewards"][0] == pytest.approx(0.62, abs=0.03)
    assert found["interval"]["low"] < told["rewards"][0] < found["interval"]["high"]
    assert found["interval"]["level"] == 0.95
    assert found["calibrator"] == Calibrator.objects.get().sha256
    raw = api.post("reward", {**body, "calibrator": "none"})
    assert (raw["rewards"][0], raw["components"][0]["source"], len(judge_api.asked)) == (0.8, "judge", 16)
    pinned = api.post("reward", {**body, "calibrator": found["calibrator"][:12]})
    assert pinned["rewards"] == told["rewards"]
    api.post("reward", {**body, "calibrator": "0123456789ab"})
    assert api.status == 422
    assert LlmCall.objects.filter(scope=f"rewards {admin.pk} {task.slug}").count() == 16


@pytest.mark.django_db(transaction=True)
def test_labels_that_all_agree_give_a_reward_without_an_interval(admin, judge_api):
    api, task = caller_for(admin, "reward"), make_idea_task()
    label_20(task, make_user("bo"), always=9)
    told = graded(api, {"task": task.slug, "completions": ["# An idea"]})
    assert (told["rewards"], told["components"][0]["source"], told["components"][0]["interval"]) == ([0.9], "calibrated_judge", None)


@pytest.mark.django_db(transaction=True)
def test_a_judge_without_enough_labels_gives_its_own_score_and_says_so(admin, judge_api):
    api, task = caller_for(admin, "reward"), make_idea_task()
    found = graded(api, {"task": task.slug, "completions": ["# An idea"]})
    assert (found["rewards"], found["components"][0]["source"]) == ([0.8], "judge")
    assert "label 20 more" in found["components"][0]["why_uncalibrated"]


@pytest.mark.django_db(transaction=True)
def test_a_judge_that_refuses_gives_null_and_the_reason(admin, judge_api):
    api, task = caller_for(admin, "reward"), make_idea_task()
    judge_api.otherwise = lambda body: Says("no", stop_reason="refusal")
    told = graded(api, {"task": task.slug, "completions": ["# An idea"]})
    assert told["rewards"] == [None]
    assert "refused" in told["components"][0]["reason"]


@pytest.mark.django_db(transaction=True)
def test_a_grading_that_fails_is_null_with_its_reason_and_is_tried_again_when_asked_again(admin, judge_api):
    api, task = caller_for(admin, "reward"), make_idea_task()
    body = {"task": task.slug, "completions": ["# An idea"]}
    judge_api.otherwise = lambda body: Status(401)
    with working():
        told = api.post("reward", body)
        assert (told["rewards"], "check ANTHROPIC_API_KEY" in told["components"][0]["reason"]) == ([None], True)
        assert "content" not in Job.objects.get().arguments
        judge_api.otherwise = judges(8)
        assert api.post("reward", body)["rewards"] == [0.8]
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_what_a_member_s_rewards_may_cost_in_all_is_a_limit_that_can_be_raised(admin, judge_api):
    api, task = caller_for(admin, "reward"), make_idea_task()
    body = {"task": task.slug, "completions": ["# One idea", "# Another"]}
    with working():
        told = api.post("reward", {**body, "limit_usd": 0.01})
        assert (told["rewards"], judge_api.asked) == ([None, None], [])
        assert all("spending limit of $0.01" in row["reason"] for row in told["components"])
        assert api.post("reward", {**body, "limit_usd": 5})["rewards"] == [0.8, 0.8]


# --- with a real worker -----------------------------------------------------------------------------------


@pytest.mark.worker
@pytest.mark.django_db(transaction=True)
def test_a_worker_runs_code_in_the_sandbox_while_the_trainer_waits(admin, start_worker):
    save_task(load_task(SHIPPED_TASKS / "neural_memory"))
    worker = start_worker()
    api = caller_for(admin, "reward")
    told = api.post("reward", {"task": "neural_memory", "completions": [program(), "raise SystemExit(3)\n", program()]})
    assert told["rewards"] == [1.0, 0.0, 1.0], (told, worker.text())
    first, second, _ = told["components"]
    assert (first["passed"], first["runs"], first["grader"]) == (True, True, "neural_memory@1")
    assert (second["passed"], second["runs"], second["source"]) == (False, False, "code")
    assert Job.objects.filter(kind="reward", state="done").count() == 2
