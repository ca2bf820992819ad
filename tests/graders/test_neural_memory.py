"""Right programs of neural_memory, its class, what does not run, and programs that could alter their own trace."""

import pytest

from tests.graders import styles
from tests.graders.checks import PARTS, check_fails, check_never_passes, check_passes, grade, grade_by, program, report

ALL = ("memory_class", "surprise_gate", "learnable_decay", "outer_product", "recurrent_update", "memory_attention_gating")


def test_a_right_program_passes_all_six():
    found = grade(program())
    assert found.passed and found.score == 10.0 and found.failure_category == ""


@pytest.mark.parametrize("source", [styles.STEPWISE, styles.INHERITED], ids=["stepwise", "inherited"])
def test_all_six_are_found_in_other_styles(source):
    found = grade(source)
    assert {c.key: c.rationale for c in found.criteria if not c.passed} == {}


def test_the_delta_rule_in_matrix_form_writes_a_product_and_has_no_decay():
    check_fails(styles.DELTA_MATRIX, "surprise_gate", because="sees the input alone")
    check_fails(styles.DELTA_MATRIX, "learnable_decay", because="not learned")
    for criterion in ("memory_class", "outer_product", "recurrent_update"):
        check_passes(styles.DELTA_MATRIX, criterion)


def test_a_memory_of_one_vector_has_no_outer_product():
    check_fails(styles.VECTOR, "outer_product", because="one vector")
    check_fails(styles.VECTOR, "surprise_gate", because="sees the input alone")
    check_fails(styles.VECTOR, "memory_attention_gating", because="not blended")


def test_evidence_points_at_lines_of_the_submission():
    source = program()
    rows = grade(source).criteria
    lines = source.splitlines()
    assert all(e.line_start and e.text == lines[e.line_start - 1].strip()[:200] for row in rows for e in row.evidence)


# --- class ---


def test_a_memory_under_another_name_fails():
    check_fails(program().replace("NeuralMemory", "Store"), "memory_class", because="no class NeuralMemory")


def test_a_memory_that_is_built_and_never_called_fails():
    check_fails(program(memory="self.g2(h)"), "memory_class", because="never called")


def test_a_memory_whose_result_is_thrown_away_fails():
    check_fails(program(memory="self.mem(h)\nm = self.g2(h)"), "memory_class", because="does not reach the logits")


def test_a_stub_fails():
    source = program(before="return x")
    check_fails(source, "memory_class", because="does not reach the logits")


def test_a_memory_that_is_a_layer_on_each_token_is_none():
    check_fails(program(before="return self.out(v)"), "memory_class", because="keeps nothing")
    check_fails(program(before="return self.out(v)"), "memory_attention_gating", because="no memory")


def test_a_memory_used_through_its_methods_passes():
    source = program().replace("def forward(self, x):\n        B, T, D", "def recall(self, x):\n        B, T, D", 1)
    check_passes(source.replace("self.mem(h)", "self.mem.recall(h)"), "memory_class")


def test_a_memory_without_gradient_learns_nothing():
    source = program(memory="self.mem(h).detach()")
    for criterion in ("surprise_gate", "learnable_decay"):
        check_never_passes(source, criterion)
    for criterion in ("outer_product", "recurrent_update"):  # decided by values
        check_passes(source, criterion)


def test_a_memory_with_next_to_no_effect_does_not_pass():
    check_never_passes(program(memory="1e-12 * self.mem(h)"), "memory_class")


# --- running ---

BROKEN = {
    "wrong shape": ("logits have shape", {"fuse": "x = (x + m + a)[:, 0]"}),
    "raises": ("ValueError", {"fuse": "raise ValueError('no')"}),
    "not a number": ("not finite", {"fuse": "x = x + float('nan')"}),
    "one length only": ("RuntimeError", {"fuse": "x = x + torch.zeros(2, 16, 32) + m"}),
}


@pytest.mark.parametrize(("because", "parts"), BROKEN.values(), ids=BROKEN)
def test_a_program_that_breaks_its_contract_does_not_run(because, parts):
    found = grade(program(**parts))
    assert (found.runs, found.passed, found.failure_category) == (False, False, "crash")
    assert because in (found.error or "")
    assert {c.unscored_reason for c in found.criteria} <= {"", "does_not_run"}  # what can be mended is judged


# --- programs that could alter their own trace ---

DOUBTFUL = (
    "import gc; gc.get_objects()",
    "import ctypes",
    "import inspect; inspect.stack()",
    "from torch.utils._python_dispatch import TorchDispatchMode",
    "exec('y = 1')",
    "torch.sigmoid = torch.sigmoid",
    "import sys; sys.modules.get('x')",
    "setattr(torch, 'x1', 1)",
    "import importlib",
)


@pytest.mark.parametrize("line", DOUBTFUL)
def test_a_program_with_means_to_alter_its_trace_gets_no_pass(line):
    found = grade_by(program() + "\n" + line + "\n", report(program()))  # the line does nothing to the run
    assert found.passed is None
    assert not any(c.passed for c in found.criteria)


def test_a_doubtful_line_in_a_program_that_is_run():
    found = grade("import ctypes\n" + program())
    assert found.passed is None and not any(c.passed for c in found.criteria)


def test_replaced_torch_functions_are_noticed_whatever_the_way():
    source = program() + "\nt = torch\nold = t.sigmoid\nt.sigmoid = lambda z: old(z)\n"
    assert not any(c.passed for c in grade(source).criteria)
    assert "replaced torch.sigmoid" in grade(source).criteria[0].rationale


def test_the_parts_of_the_program_are_all_in_use():
    assert all("{" + name + "}" not in program() for name in PARTS)
