"""text_match: words in the text decide, comments included; the program is never run."""

from graders import registry
from tasks.task import load_tasks
from tests.graders.checks import program, task


def grade(source):
    return registry.get("text_match").grade(task(), source)


def passed(source):
    return {c.key for c in grade(source).criteria if c.passed}


def test_a_right_program_with_the_usual_words_passes_without_being_run():
    found = grade(program() + "# surprise\n")
    assert found.passed and found.runs is None and found.score == 10.0


def test_words_in_comments_fool_it():
    text = "# class NeuralMemory(nn.Module): surprise = sigmoid(net), nn.Parameter decay, einsum, for t in range(T): 1 - g"
    assert len(passed(text)) == 6


def test_a_word_that_is_missing_fails_its_criterion():
    assert "surprise_gate" not in passed("torch.sigmoid(x)")


def test_evidence_is_the_line_with_the_word():
    row = next(c for c in grade("x = 1\ny = torch.outer(a, b)").criteria if c.key == "outer_product")
    assert (row.evidence[0].line_start, row.evidence[0].text) == (2, "y = torch.outer(a, b)")


def test_it_has_patterns_for_every_criterion_of_its_tasks():
    grader = registry.get("text_match")
    for t in load_tasks():
        if t.slug in grader.tasks:
            assert set(grader.criteria(t.slug)) == {c.key for c in t.rubric.criteria}
