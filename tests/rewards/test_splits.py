"""Splits: outputs of one prompt, and outputs with the same text, are on one side."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reviewapp.models import Task
from reviewapp.rewards.splits import MIN_SHARED_CHARS, SharedTexts, SplitError, Splitter, parse_split, prompt_key
from tests.make import at_once, make_human_grade, make_output, make_task
from tests.rewards.reading import export, make_prompt, manifest_of, rows_of

LONG = "The same long answer to whatever was asked, word for word."


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("0.9,0.2", "sum to 1.1"),
        ("a,b", "must be numbers"),
        ("0.25,0.25,0.25,0.25", "4 parts"),
        ("1,0", "above 0"),
        ("nan", "above 0"),
        ("", "must be numbers"),
    ],
)
def test_a_wrong_split_says_what_is_wrong(text, because):
    with pytest.raises(SplitError, match=because):
        parse_split(text)


@given(
    outputs=st.lists(st.tuples(st.integers(0, 12), st.sampled_from([f"{LONG} {i}" for i in range(6)] + ["B", ""])), max_size=60),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200)
def test_no_prompt_and_no_text_is_ever_on_two_sides(outputs, seed):
    shared = SharedTexts()
    for prompt, text in outputs:
        shared.add(prompt_key(None, str(prompt)), text)
    splitter = Splitter(parse_split("0.4,0.3,0.3"), seed, shared.roots())
    sides = defaultdict(set)
    for prompt, text in outputs:
        side = splitter.split_of(prompt_key(None, str(prompt)))
        sides[prompt].add(side)
        if len(text) >= MIN_SHARED_CHARS:
            sides[text].add(side)
    assert all(len(found) == 1 for found in sides.values())


def test_case_and_white_space_make_no_other_text():
    shared = SharedTexts()
    shared.add(1, LONG)
    shared.add(2, LONG.upper().replace(" ", "\n\t"))
    shared.add(3, LONG + " And more.")
    assert shared.roots() == {1: 1, 2: 1}


def test_short_answers_do_not_chain_prompts_together():
    shared = SharedTexts()
    for prompt in range(5):
        shared.add(prompt, "B")
    assert shared.roots() == {}


def test_shares_are_met_over_many_prompts_and_a_seed_makes_another_split():
    first, second = (Splitter(parse_split("0.8,0.2"), seed) for seed in (1, 2))
    sides = [first.split_of(prompt_key(None, str(i))) for i in range(5000)]
    assert sides.count("test") == pytest.approx(1000, abs=90)  # three standard deviations are 85
    assert sides != [second.split_of(prompt_key(None, str(i))) for i in range(5000)]


@pytest.fixture
@at_once
def many_prompts(db, reviewer):
    task = make_task()
    for number in range(12):
        prompt = make_prompt(task, f"Prompt {number}")
        for sample in range(3):
            text = LONG if number in (3, 4) and sample == 0 else f"Answer {sample} to prompt {number}, which is long enough to count."
            make_human_grade(make_output(task, text, prompt=prompt), reviewer, {"viability": 5})


def test_the_files_of_a_split_share_no_prompt_and_no_text(tmp_path, many_prompts):
    folder = export(tmp_path / "out", "--split", "0.5,0.25,0.25", "--seed", "3")
    sides = {name: rows_of(folder, name) for name in ("train", "validation", "test")}
    prompts = [{row["prompt"] for row in rows} for rows in sides.values()]
    assert sum(map(len, prompts)) == 12 and sum(map(len, sides.values())) == 36
    assert sum(any(row["content"] == LONG for row in rows) for rows in sides.values()) == 1
    assert all(row["split"] == name for name, rows in sides.items() for row in rows)
    assert any("2 prompts share an answer" in text for text in manifest_of(folder)["warnings"])


def test_a_prompt_stays_on_its_side_when_outputs_are_added(tmp_path, many_prompts, reviewer):
    before = {r["prompt"]: s for s in ("train", "test") for r in rows_of(export(tmp_path / s, "--split", "0.5,0.5"), s)}
    task = Task.objects.get()
    for number in range(20):
        output = make_output(task, f"A new answer with a number {number} in it.", prompt=make_prompt(task, f"New {number}"))
        make_human_grade(output, reviewer, {"viability": 5})
    folder = export(tmp_path / "after", "--split", "0.5,0.5")
    after = {r["prompt"]: s for s in ("train", "test") for r in rows_of(folder, s)}
    assert all(after[prompt] == side for prompt, side in before.items())
