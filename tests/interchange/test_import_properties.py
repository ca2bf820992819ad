"""Whatever is in a file: it is imported whole and as it stands, or refused with reasons and the database is as before."""

import itertools
import json

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from reviewapp.interchange.importer import import_file
from reviewapp.interchange.problems import ImportRefused
from reviewapp.models import CriterionScore, Grade, Output, OutputBody
from tests.interchange.files import counts, grade, line, rubric_file

pytestmark = pytest.mark.django_db
# Fixtures hold across the examples of a test: so does what earlier examples imported. Shrinking would import for minutes.
EXAMPLES = settings(
    max_examples=60 if connection.vendor == "sqlite" else 20,  # the second pair of engines stores the same things
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbered = itertools.count()

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def json_of(numbers: st.SearchStrategy) -> st.SearchStrategy:
    return st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=12,
    )


json_values = json_of(st.integers(-(2**70), 2**70) | st.floats())
# PostgreSQL's jsonb keeps numbers as decimals: 9.209830650857182e16 comes back as a whole number of other digits.
exact_values = json_of(st.integers(-(2**63), 2**63 - 1) | st.floats(-1e15, 1e15))
numbers = st.integers(1, 5) | st.floats(1, 5)
criteria = st.fixed_dictionaries(
    {},
    optional={
        "coherence": st.fixed_dictionaries({"score": numbers | st.none()}, optional={"rationale": texts}),
        "fluency": st.fixed_dictionaries({"score": numbers}),
        "verdict": st.fixed_dictionaries({"score": st.sampled_from(["model_a", "tie", "model_b"])}),
        "grounded": st.fixed_dictionaries({"score": st.sampled_from([0, 1])}),
    },
)
grades = st.fixed_dictionaries(
    {"grader": st.sampled_from(["a", "b", "ü"]), "kind": st.sampled_from(["llm_judge", "code", "human"])},
    optional={
        "rater": st.sampled_from(["r1", "r2"]),
        "mode": st.sampled_from(["blind", "assisted"]),
        "overall": numbers,
        "passed": st.booleans(),
        "rationale": texts,
        "criteria": criteria,
    },
)
messages = st.fixed_dictionaries({"role": texts.filter(bool), "content": texts}, optional={"tool_calls": exact_values})
good_lines = st.fixed_dictionaries(
    {"external_id": texts.filter(bool), "task": st.just("summaries"), "content": texts.filter(bool)},
    optional={
        "prompt": texts,
        "model": texts,
        "variant": st.sampled_from(["default", "x"]),
        "reference": texts,
        "metadata": st.dictionaries(texts, exact_values, max_size=3),
        "format": st.sampled_from(["markdown", "python", "text"]),
        "grades": st.lists(grades, max_size=3),
        "transcript": st.lists(messages, max_size=2),
    },
)
good_files = st.lists(good_lines, min_size=1, max_size=6, unique_by=lambda row: row["external_id"])
in_grade = [(), ("kind",), ("overall",), ("criteria",), ("criteria", "fluency"), ("criteria", "fluency", "score")]
in_line = [("external_id",), ("task",), ("content",), ("metadata",), ("transcript",), ("grades",), ("odd",)]
paths = st.sampled_from([*in_line, *(("grades", 0, *path) for path in in_grade)])


def as_lines(values: list) -> bytes:
    """By the standard library, which also writes NaN and integers of any size."""
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values).encode()


def write(folder, data: bytes):
    path = folder / "outputs.jsonl"
    path.write_bytes(data)
    return path


def check_whole_or_nothing(folder, data: bytes) -> None:
    before = counts()
    try:
        report = import_file(write(folder, data), rubric_file(folder))
    except ImportRefused as refused:
        assert refused.problems
        assert counts() == before
        return
    after = counts()
    assert after["Output"] - before["Output"] == report.outputs_new + report.outputs_new_version
    assert after["OutputBody"] == after["Output"]
    assert after["Grade"] - before["Grade"] == report.grades_new


@EXAMPLES
@given(st.binary(max_size=300))
def test_arbitrary_bytes(tmp_path, data):
    check_whole_or_nothing(tmp_path, data)


@EXAMPLES
@given(st.lists(json_values | st.fixed_dictionaries({"external_id": json_values, "task": json_values, "content": json_values}), max_size=3))
def test_arbitrary_json(tmp_path, values):
    check_whole_or_nothing(tmp_path, as_lines(values))


@EXAMPLES
@given(paths, json_values, st.sampled_from(["put", "drop"]))
def test_a_good_line_with_one_thing_wrong(tmp_path, path, value, act):
    row = line("mutated", grades=[grade(overall=3)], metadata={}, transcript=[])
    place = row
    for part in path[:-1]:
        place = place[part]
    if act == "put":
        place[path[-1]] = value
    elif isinstance(place, dict):
        place.pop(path[-1], None)
    check_whole_or_nothing(tmp_path, as_lines([line("beside"), row]))


@EXAMPLES
@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_good_line_with_damaged_bytes(tmp_path, place, damage):
    data = as_lines([line("damaged", content="Text ü", grades=[grade(), grade(kind="human", mode="blind")])])
    at = place % len(data)
    check_whole_or_nothing(tmp_path, data[:at] + damage + data[at + len(damage) :])


@EXAMPLES
@given(good_files)
def test_good_lines_come_out_as_they_went_in(tmp_path, rows):
    example = next(numbered)
    rows = [{**row, "external_id": f"{example}/{row['external_id']}"} for row in rows]
    import_file(write(tmp_path, as_lines(rows)), rubric_file(tmp_path))
    for row in rows:
        output = Output.objects.select_related("prompt", "variant", "body").get(external_id=row["external_id"], is_latest=True)
        assert output.body.content == row["content"]
        assert (output.prompt.text if output.prompt else "") == row.get("prompt", "")
        assert (output.model, output.variant.name) == (row.get("model", ""), row.get("variant", "default"))
        assert (output.body.reference, output.body.transcript) == (row.get("reference", ""), row.get("transcript", []))
        assert output.metadata == row.get("metadata", {})


@EXAMPLES
@given(good_files)
def test_twice_is_once(tmp_path, rows):
    path, rubric = write(tmp_path, as_lines(rows)), rubric_file(tmp_path)
    dry = import_file(path, rubric, dry_run=True)
    once = import_file(path, rubric)
    assert (once.outputs_new, once.outputs_new_version, once.grades_new) == (dry.outputs_new, dry.outputs_new_version, dry.grades_new)
    before = counts()
    again = import_file(path, rubric)
    assert not again.changes_something
    assert counts() == before
    assert Grade.objects.count() >= CriterionScore.objects.values("grade").distinct().count()
    assert OutputBody.objects.count() == Output.objects.count()
