"""Each wrong line is refused with its number, the field, the value seen and what is allowed; nothing is written."""

import orjson
import pytest
from django.core.management import CommandError, call_command

from tests.interchange.files import check_refused, counts, grade, jsonl, line, rubric_file

pytestmark = pytest.mark.django_db

GOOD = line("good", grades=[grade()])


def text(row: dict) -> str:
    return orjson.dumps(row).decode()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"external_id": None}, "external_id is null, must be text"),
        ({"external_id": ""}, "external_id is empty, it must not be"),
        ({"external_id": "x" * 256}, "external_id has 256 characters, allowed: at most 255"),
        ({"task": 5}, "task is 5, must be text"),
        ({"task": "poems"}, 'task is "poems", which is not here: define it by a rubric file (--rubric, '),
        ({"colour": "red"}, "colour is not a known field, allowed: external_id, task, prompt"),
        ({"content": ["a"]}, 'content is ["a"], must be text'),
        ({"content": ""}, "content is empty: give the text"),
        ({"content_missing": "no"}, "content_missing is given, but there is content"),
        ({"format": "html"}, 'format is "html", allowed: "markdown", "python" or "text"'),
        ({"metadata": []}, "metadata is [], must be an object"),
        ({"transcript": [{"role": "user"}]}, "transcript[0].content is missing"),
        ({"transcript": [{"role": "user", "content": None}]}, "transcript[0].content is null, must be text"),
        ({"grades": {}}, "grades is {}, must be a list"),
    ],
)
def test_wrong_field_of_an_output(tmp_path, fields, said):
    check_refused(jsonl(tmp_path, GOOD, {**line(), **fields}), f"line 2: {said}")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grader": 1}, "grades[1].grader is 1, must be text"),
        ({"kind": "robot"}, 'grades[1].kind is "robot", allowed: "llm_judge", "code" or "human"'),
        ({"mode": "override"}, 'grades[1].mode is "override", allowed: "blind" or "assisted"'),
        ({"overal": 3}, "grades[1].overal is not a known field, allowed: grader, kind"),
        ({"overall": 7}, "grades[1].overall is 7, allowed: 1 to 5"),
        ({"overall": True}, "grades[1].overall is true, must be a number"),
        ({"overall": "4"}, 'grades[1].overall is "4", must be a number'),
        ({"passed": 1}, "grades[1].passed is 1, must be true or false"),
    ],
)
def test_wrong_field_of_a_grade(tmp_path, fields, said):
    check_refused(jsonl(tmp_path, line(grades=[grade(), grade(**fields)])), f"line 1: {said}")


@pytest.mark.parametrize(
    ("criteria", "said"),
    [
        ({"charm": {"score": 3}}, "charm is not in the rubric, allowed: coherence, fluency, verdict, grounded"),
        ({"fluency": 3}, "fluency is 3, must be an object"),
        ({"fluency": {}}, "fluency.score is missing"),
        ({"fluency": {"score": 3, "why": ""}}, "fluency.why is not a known field, allowed: score, rationale"),
        ({"fluency": {"score": 5.01}}, "fluency.score is 5.01, allowed: 1 to 5"),
        ({"fluency": {"score": True}}, "fluency.score is true, must be a number from 1 to 5"),
        ({"fluency": {"score": "3"}}, 'fluency.score is "3", must be a number from 1 to 5'),
        ({"fluency": {"score": 3, "evidence": [{"text": "a", "line": 1}]}}, "evidence[0].line is not a known field, allowed: text, kind"),
        ({"fluency": {"score": 3, "evidence": [{"text": "a", "line_start": 0}]}}, "fluency.evidence[0].line_start is 0, must be 1 or more"),
        ({"fluency": {"score": 3, "evidence": [{"text": "a", "line_start": 1.5}]}}, "line_start is 1.5, must be a whole number"),
        ({"verdict": {"score": "both"}}, 'verdict.score is "both", allowed: "model_a", "tie", "model_b"'),
        ({"verdict": {"score": 1}}, 'verdict.score is 1, allowed: "model_a"'),
        ({"grounded": {"score": 0.5}}, "grounded.score is 0.5, allowed: 0 (fail), 1 (pass)"),
    ],
)
def test_wrong_criterion(tmp_path, criteria, said):
    check_refused(jsonl(tmp_path, line(grades=[grade(criteria=criteria)])), "line 1: grades[0].criteria.", said)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_no_numbers(tmp_path, word):
    bad = text(line(grades=[grade(overall=3)])).replace('"overall":3', f'"overall":{word}')
    check_refused(jsonl(tmp_path, bad.encode()), f"line 1: has {word} at column", "use a number, or null")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"external_id": "a",', "is not valid JSON at column 21"),
        (b'{"external_id": "a", "content": "cut of', "is not valid JSON at column 40: unexpected end of data"),
        (b"[1, 2]", "is [1,2], must be an object"),
        (b"null", "is null, must be an object"),
        (b'{"a": 1} {"b": 2}', "is not valid JSON at column 10"),
        (b'{"external_id": "\xff\xfe"}', "is not UTF-8 text at byte 18 of the line (0xff)"),
        (b'{"external_id": "\\ud800"}', "is not valid JSON at column 18: no low surrogate"),
        (b'{"a": 1e999}', "is not valid JSON at column 7: number is infinity"),
        (b"[" * 5000, "is not valid JSON at column"),
    ],
)
def test_what_is_not_an_object_of_json(tmp_path, raw, said):
    check_refused(jsonl(tmp_path, GOOD, raw), f"line 2: {said}")


def test_nul_characters_are_named_wherever_they_are(tmp_path):
    check_refused(jsonl(tmp_path, line(content="a\0b")), "line 1: content has a NUL character (\\u0000) at position 2")
    check_refused(jsonl(tmp_path, line(metadata={"a": [{"b": "\0"}]})), "metadata.a[0].b has a NUL character")
    check_refused(jsonl(tmp_path, line(metadata={"k\0": 1})), "metadata has a field name with a NUL character")


def test_the_six_letters_of_an_escaped_backslash_are_no_nul(tmp_path):
    from reviewapp.interchange.importer import import_file

    report = import_file(jsonl(tmp_path, line(content="a \\u0000 b")), rubric_file(tmp_path))
    assert report.outputs_new == 1


def test_metadata_nested_too_deeply(tmp_path):
    deep = '{"a":' * 400 + "1" + "}" * 400
    raw = text(line(metadata=0)).replace('"metadata":0', f'"metadata":{deep}')
    check_refused(jsonl(tmp_path, raw.encode()), "line 1: is nested too deeply")


def test_one_external_id_with_two_contents(tmp_path):
    path = jsonl(tmp_path, line("a"), line("b"), line("a", content="Other."))
    check_refused(path, 'line 3: external_id "a" was on line 1 with other content')


def test_every_bad_line_is_listed(tmp_path):
    path = jsonl(tmp_path, line("a", x=1), GOOD, b"{", line("c", task=1))
    refused = check_refused(path, "line 1: x", "line 3: is not valid", "line 4: task")
    assert (refused.n_problems, refused.n_bad_lines) == (3, 3)
    assert refused.problems[0].to_json() == {"line": 1, "field": "x", "reason": refused.problems[0].reason}


def test_after_a_hundred_problems_the_rest_is_counted(tmp_path):
    refused = check_refused(jsonl(tmp_path, *[b"{"] * 250), "and 150 more problems: 250 bad lines in all")
    assert len(refused.problems) == 100


def test_a_line_with_a_million_unknown_fields_is_told_in_a_few(tmp_path):
    refused = check_refused(jsonl(tmp_path, {str(i): i for i in range(100_000)}), "line 1: 0 is not a known field")
    assert refused.n_problems == 5


def test_the_command_fails_with_the_list(tmp_path):
    before = counts()
    with pytest.raises(CommandError, match=r"line 1: x is not a known field[\s\S]*Nothing was imported"):
        call_command("import_outputs", str(jsonl(tmp_path, line(x=1))), rubric=str(rubric_file(tmp_path)))
    assert counts() == before
