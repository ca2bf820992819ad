"""A rubric file: what is read out of it, and how each mistake is told."""

from __future__ import annotations

import pytest

from tasks.task import TaskError, load_rubric, load_task_of_rubric, parse_rubric
from tests.tasks.folders import RUBRIC, rubric_of


def refuses(text: str, because: str) -> None:
    """The rubric is refused, and the message holds `because` and the file's name."""
    with pytest.raises(TaskError) as caught:
        rubric_of(text)
    assert because in str(caught.value)
    assert str(caught.value).startswith("rubric.toml")


def criterion(more: str = "", key: str = "clarity") -> str:
    return f'[[criterion]]\nkey = "{key}"\n{more}\n'


def test_a_criterion_needs_only_a_key():
    (clarity,) = rubric_of(criterion()).criteria
    assert (clarity.title, clarity.weight, clarity.kind, clarity.scale) == ("clarity", 1.0, "numeric", (0.0, 10.0))


def test_a_criterion_takes_the_scale_of_the_rubric_unless_it_has_its_own():
    rubric = rubric_of("[rubric]\nscale = [1, 5]\n" + criterion() + criterion("scale = [0, 1]", "safe"))
    assert [c.scale for c in rubric.criteria] == [(1.0, 5.0), (0.0, 1.0)]


def test_a_count_rubric_without_min_passed_needs_all_but_the_categorical():
    mood = criterion('kind = "categorical"\nvalues = ["glad", "sad"]', "mood")
    rubric = rubric_of('[rubric]\npass_rule = "count"\n' + criterion() + criterion(key="safe") + mood)
    assert rubric.min_passed == rubric.needed == 2


def test_unknown_field_is_named_with_those_allowed():
    refuses("[rubric]\npass_treshold = 7\n" + criterion(), "[rubric]: unknown field 'pass_treshold', allowed: min_")
    refuses(criterion("wieght = 1"), "[[criterion]] 1: unknown field 'wieght'")
    refuses("[judge]\n" + criterion(), "unknown field 'judge'")


def test_rubric_without_criteria_is_refused():
    refuses("[rubric]\nscale = [1, 5]", "needs at least one [[criterion]]")


def test_negative_weight_is_refused():
    refuses(criterion("weight = -0.5"), "(clarity): weight is -0.5, must be 0 or more")


@pytest.mark.parametrize("weight", ['"0.3"', "true", "nan", "inf", "[1]"])
def test_weight_that_is_no_number_is_refused(weight):
    refuses(criterion(f"weight = {weight}"), "must be a number")


def test_weights_that_are_all_zero_are_refused():
    refuses(criterion("weight = 0") + criterion("weight = 0", "depth"), "every weight is 0 (clarity, depth)")


def test_some_weights_may_be_zero():
    assert [c.weight for c in rubric_of(criterion("weight = 0") + criterion(key="depth")).criteria] == [0.0, 1.0]


@pytest.mark.parametrize("scale", ["[5, 1]", "[3, 3]", "[1, 2, 3]", "[1]", "5", '"15"', '["a", "b"]', "[0, nan]"])
def test_scale_that_is_no_range_is_refused(scale):
    refuses(f"[rubric]\nscale = {scale}\n" + criterion(), "[rubric] scale")
    refuses(criterion(f"scale = {scale}"), "[[criterion]] 1 (clarity) scale")


@pytest.mark.parametrize("threshold", ["5.5", "0.9", "-1"])
def test_threshold_out_of_the_scale_is_refused(threshold):
    head = f"[rubric]\nscale = [1, 5]\npass_threshold = {threshold}\n"
    refuses(head + criterion(), "must lie in the scale [1.0, 5.0]")


def test_threshold_at_either_end_of_the_scale_is_fine():
    for threshold in (1, 5):
        rubric = rubric_of(f"[rubric]\nscale = [1, 5]\npass_threshold = {threshold}\n" + criterion())
        assert rubric.pass_threshold == threshold


def test_unknown_pass_rule_is_refused():
    refuses('[rubric]\npass_rule = "majority"\n' + criterion(), "pass_rule is 'majority', allowed: overall, count")


@pytest.mark.parametrize("min_passed", ["0", "2", "-1", "1.0", "true", '"1"'])
def test_min_passed_must_be_a_number_of_criteria(min_passed):
    refuses(f'[rubric]\npass_rule = "count"\nmin_passed = {min_passed}\n' + criterion(), "must be 1 to 1")


def test_field_of_the_other_pass_rule_is_refused():
    refuses("[rubric]\nmin_passed = 1\n" + criterion(), 'min_passed has no meaning with pass_rule = "overall"')
    refuses('[rubric]\npass_rule = "count"\npass_threshold = 7\n' + criterion(), "pass_threshold has no meaning")


def test_requires_run_must_be_true_or_false():
    refuses('[rubric]\nrequires_run = "yes"\n' + criterion(), "requires_run is 'yes'")


def test_categorical_criterion_without_values_is_refused():
    refuses(criterion('kind = "categorical"'), '`values` belongs to kind = "categorical"')


def test_values_of_a_numeric_criterion_are_refused():
    refuses(criterion('values = ["good", "bad"]'), "seen kind 'numeric', values ['good', 'bad']")


def test_values_must_be_a_list_of_different_texts():
    refuses(criterion('kind = "categorical"\nvalues = "good"'), "must be a list")
    refuses(criterion('kind = "categorical"\nvalues = ["good", "good"]'), "values must differ")


def test_unknown_kind_is_refused():
    refuses(criterion('kind = "boolean"'), "kind is 'boolean', allowed: numeric, binary, categorical")


def test_duplicate_keys_are_refused():
    refuses(criterion() + criterion(), "criterion keys must differ, seen ['clarity', 'clarity']")


@pytest.mark.parametrize("key", ["", "Clarity", "two words", "-x", "a" * 64, "clarity\\n"])
def test_key_that_cannot_stand_in_a_url_is_refused(key):
    refuses(criterion(key=key), "key is")


def test_title_that_is_too_long_is_refused():
    refuses(criterion(f'title = "{"x" * 201}"'), "title has 201 characters, allowed: 1 to 200")


@pytest.mark.parametrize("criteria", [["a"], {"key": "a"}, "a", []])
def test_criteria_that_are_no_tables_are_refused(criteria):
    with pytest.raises(TaskError, match=r"^here"):
        parse_rubric({"criterion": criteria}, "here")


@pytest.mark.parametrize("head", [3, "overall", [{"scale": [0, 1]}]])
def test_a_rubric_head_that_is_no_table_is_refused(head):
    with pytest.raises(TaskError, match=r"^here"):
        parse_rubric({"rubric": head, "criterion": [{"key": "a"}]}, "here")


def test_missing_broken_and_undecodable_files_are_named(tmp_path):
    path = tmp_path / "rubric.toml"
    with pytest.raises(TaskError, match=r"rubric\.toml: No such file"):
        load_rubric(path)
    path.write_text("[rubric\n", encoding="utf-8")
    with pytest.raises(TaskError, match=r"rubric\.toml: not valid TOML"):
        load_rubric(path)
    path.write_bytes(b'title = "\xff"')
    with pytest.raises(TaskError, match=r"rubric\.toml: not UTF-8"):
        load_rubric(path)


def test_a_rubric_file_with_a_task_table_defines_a_task(tmp_path):
    path = tmp_path / "summeval.toml"
    head = '[task]\nslug = "summeval"\ntitle = "Summaries"\ndescription = "News."\n'
    path.write_text(head + RUBRIC, encoding="utf-8")
    task = load_task_of_rubric(path)
    assert (task.slug, task.title, task.description, task.output_format) == ("summeval", "Summaries", "News.", "text")
    assert task.rubric == load_rubric(path)


@pytest.mark.parametrize(
    ("head", "because"),
    [
        ("", "needs a \\[task\\] table"),
        ('[task]\ntitle = "Summaries"\n', "needs a \\[task\\] table"),
        ('[task]\nslug = "Summ Eval"\n', "slug is 'Summ Eval'"),
        ('[task]\nslug = "summeval"\nrubric = "x"\n', "unknown field 'rubric'"),
        ('[task]\nslug = "summeval"\noutput_format = "pdf"\n', "output_format is 'pdf'"),
    ],
)
def test_a_rubric_file_that_defines_no_sound_task_is_refused(tmp_path, head, because):
    path = tmp_path / "summeval.toml"
    path.write_text(head + RUBRIC, encoding="utf-8")
    with pytest.raises(TaskError, match=because):
        load_task_of_rubric(path)


def test_hash_is_the_same_for_the_same_content_and_on_every_machine():
    assert rubric_of(RUBRIC).sha256 == rubric_of("# a comment\n" + RUBRIC.replace("7.0", "7")).sha256
    # sha256 of the JSON with sorted keys and no spaces, computed by sha256sum
    assert rubric_of(RUBRIC).sha256 == "cb28df7617bed5a96064dce3b17f66ab106d1530b2d98072a141234c68afd43e"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7.0", "7.5"),
        ('"clarity"', '"clarity2"'),
        ('"clarity"', '"clarity"\nweight = 2'),
        ('"clarity"', '"clarity"\ndescription = "Is it clear?"'),
        ('"clarity"', '"clarity"\nscale = [1, 5]'),
        ("[rubric]", "[rubric]\nrequires_run = true"),
    ],
)
def test_hash_changes_with_every_part_of_the_content(old, new):
    assert rubric_of(RUBRIC.replace(old, new)).sha256 != rubric_of(RUBRIC).sha256


def test_hash_changes_with_the_order_of_the_criteria():
    assert rubric_of(criterion() + criterion(key="b")).sha256 != rubric_of(criterion(key="b") + criterion()).sha256
