"""Citations on the review page: a table in the Evidence tab, marks only where something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import settings

from graders import registry
from reviewapp.catalog.sync import save_plain_grader, spec_of, sync_tasks
from reviewapp.grading import record_grader_grade
from reviewapp.models import Task
from tasks.tools.corpus import Corpus
from tasks.tools.fill import fill_from_jsonl
from tests.make import make_output

SAMPLES = Path("reviewapp/samples/literature_review")


@pytest.fixture
def review(db):
    """The sample with three planted errors, graded."""
    sync_tasks()
    task = Task.objects.get(slug="literature_review")
    fill_from_jsonl(Corpus(settings.DATA_DIR / "corpus.sqlite3"), SAMPLES / "papers.jsonl")
    output = make_output(task, content=(SAMPLES / "05-context-extension.md").read_text())
    grader = registry.get("citations")
    record_grader_grade(output, save_plain_grader(grader), grader.grade(spec_of(task), output.body.content), attempt=1)
    return output


def test_each_cited_work_and_number_is_a_row_with_its_verdict(as_admin, review):
    page = as_admin.get(f"/outputs/{review.pk}/?tab=evidence").content.decode()
    assert "64 checks of works and numbers" in page
    assert 'href="https://arxiv.org/abs/2309.00071"' in page
    assert "YaRN: Efficient Context Window Extension of Large Language Models" in page
    assert '<span class="mark fail">not in the paper</span>' in page
    assert "arXiv:2309.18321 does not exist" in page
    assert "LongRoPE" not in page or "is another paper: Ethan Smith" in page


def test_only_what_is_wrong_is_marked_in_the_text(as_admin, review):
    page = as_admin.get(f"/outputs/{review.pk}/?tab=output").content.decode()
    marked = page.count('<mark class="judge"')
    assert 3 <= marked <= 30
    assert "25x less tokens" in page[page.index("YaRN (Peng") :]


def test_who_has_not_graded_sees_no_verdict_on_citations(as_reviewer, review):
    for tab in ("output", "evidence"):
        page = as_reviewer.get(f"/outputs/{review.pk}/?tab={tab}").content.decode()
        assert "does not exist" not in page
        assert "not in the paper" not in page
