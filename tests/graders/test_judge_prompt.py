"""The request to a judge: the output stays in its data block, whatever it holds, and people are told of tries."""

import re
from pathlib import Path

import pytest

from graders.judge.injection import find_attempts
from graders.judge.judge import Judge
from graders.judge.prompt import boundary_of, build_request, make_plain
from llm.wire import arguments
from tasks.task import SHIPPED_TASKS, load_task
from tests.graders.injections import IDEA, INJECTIONS

ROOT = Path(__file__).parents[2]
SECRET = b"secret of the tests"
TASK = load_task(SHIPPED_TASKS / "idea_proposal")


def blocks_of(content, **fields):
    """(before, data, after, system) as they are sent."""
    sent = arguments(build_request(Judge(), TASK, content, secret=SECRET, **fields))
    (turn,) = sent["messages"]
    assert turn["role"] == "user"
    before, data, after = (block["text"] for block in turn["content"])
    return before, data, after, sent["system"]


def without_boundary(text):
    return re.sub(r"===== DATA [0-9a-f]{32} =====", "BOUNDARY", text)


@pytest.mark.parametrize(("content", "kind"), INJECTIONS.values(), ids=INJECTIONS)
def test_an_output_that_tries_stays_in_its_data_block(content, kind):
    before, data, after, system = blocks_of(content)
    honest_before, _, honest_after, honest_system = blocks_of(IDEA)
    boundary = boundary_of(content, SECRET, "")
    assert (without_boundary(before), after, system) == (without_boundary(honest_before), honest_after, honest_system)
    assert data == f"{boundary}\n{make_plain(content)}\n{boundary}"
    assert data.count(boundary) == 2


@pytest.mark.parametrize(("content", "kind"), INJECTIONS.values(), ids=INJECTIONS)
def test_people_are_told_what_was_tried_and_where(content, kind):
    found = find_attempts(content)
    assert kind in {attempt.kind for attempt in found}
    assert all(attempt.line > 3 or attempt.kind == "invisible" for attempt in found)


@pytest.mark.parametrize(("content", "kind"), INJECTIONS.values(), ids=INJECTIONS)
def test_no_sign_reaches_the_judge_that_people_cannot_see_or_that_ends_a_turn(content, kind):
    _, data, _, _ = blocks_of(content)
    assert not re.search("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\U000e0000-\U000e007f]", data)
    assert not re.search(r"<\|\w+\|>|\[/?INST\]|<(?:start|end)_of_turn>|<<SYS>>", data)


def test_honest_samples_are_not_flagged():
    samples = [path for path in (ROOT / "reviewapp" / "samples").glob("*/[0-9]*.*")]
    flagged = {path.name: found for path in samples if (found := find_attempts(path.read_text()))}
    assert len(samples) > 40
    assert flagged == {}


def test_the_boundary_cannot_be_guessed_and_is_the_same_for_the_same_call():
    first = boundary_of(IDEA, SECRET, "1")
    assert first == boundary_of(IDEA, SECRET, "1")
    others = [boundary_of(IDEA, b"other", "1"), boundary_of(IDEA + " ", SECRET, "1"), boundary_of(IDEA, SECRET, "2")]
    assert len({first, *others}) == 4


def test_an_output_that_holds_the_boundary_gets_another():
    content, known = IDEA, boundary_of(IDEA, SECRET, "")

    class Leaked(str):
        """Says that it holds the first boundary."""

        def __contains__(self, text):
            return text == known or super().__contains__(text)

    assert boundary_of(Leaked(content), SECRET, "") != known


def test_honest_text_is_sent_to_the_letter():
    content = "# Ä title\n\n| a | b |\n$x < 3$ [link](http://x) <div> `code` a->b 👩‍🔬 نیم‌فاصله\n"
    assert make_plain(content) == content


def test_system_holds_instructions_rubric_and_form_and_is_the_same_for_all_outputs():
    *_, (system,) = blocks_of(IDEA)
    assert TASK.judge_instructions.strip()[:200] in system["text"]
    assert all(criterion.description in system["text"] for criterion in TASK.rubric.criteria)
    assert '"viability"' in system["text"] and "weight 0.3" in system["text"]
    assert system["cache_control"] == {"type": "ephemeral"}
    assert "{{" not in system["text"]


def test_the_idea_judge_thinks_hard():
    sent = arguments(build_request(Judge(), TASK, IDEA, secret=SECRET))
    assert sent["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert sent["output_config"] == {"effort": "high"}


def test_the_literature_judge_leaves_citations_to_the_program():
    task = load_task(SHIPPED_TASKS / "literature_review")
    sent = arguments(build_request(Judge(), task, "A review.", secret=SECRET))
    rubric = sent["system"][0]["text"].partition("# Rubric")[2]
    assert "**synthesis**" in rubric and "**citations**" not in rubric


@pytest.mark.parametrize("slug", ["neural_memory", "fsdp_training", "memory_optimization"])
def test_code_judges_are_asked_for_verdicts(slug):
    sent = arguments(build_request(Judge(), load_task(SHIPPED_TASKS / slug), "x = 1", secret=SECRET))
    assert "pass or fail or undecided" in sent["system"][0]["text"]
