"""The five shipped tasks: criteria, weights, variants and the texts that others rely on."""

from __future__ import annotations

import ast
import hashlib
import re

import pytest

from tasks.task import SHIPPED_TASKS, Task, load_task, load_tasks

CRITERIA = {
    "neural_memory": """
        memory_class surprise_gate learnable_decay outer_product recurrent_update memory_attention_gating
    """,
    "fsdp_training": """
        local_rank_device wrap_policy full_state_dict param_count distributed_sampler init_destroy runs_multi_node
    """,
    "memory_optimization": """
        mixed_precision_autocast grad_scaler_or_bf16 gradient_checkpointing gradient_accumulation zero_grad_set_to_none
        no_grad_eval sdpa_flash_attention low_memory_optimizer cpu_offload torch_compile in_place_ops
        del_and_empty_cache channels_last activation_offload param_dtype_bf16 loss_item_detach
        pinned_memory_nonblocking chunked_loss
    """,
    "idea_proposal": "viability upside success novelty",
    "literature_review": "coverage seminal_works synthesis citations",
}
VARIANTS = {
    "neural_memory": "explicit_hints biological_hints bio_plus_outer_product bio_outer_learnable_sigmoid",
    "fsdp_training": "explicit terse",
    "memory_optimization": "explicit no_hints",
    "idea_proposal": "explicit_criteria open_ended",
    "literature_review": "tools_and_numbers open_survey",
}
NEEDED = {"neural_memory": 6, "fsdp_training": 7, "memory_optimization": 6}
JUDGED = ("idea_proposal", "literature_review")
# Graders and submissions made elsewhere meet at these texts: they are fixed to the byte.
FIXED = {
    "neural_memory/starter.py": "841d104aa1056903b840c475bf5b257bf885d34a3c790da8b83642306b357fce",
    "fsdp_training/starter.py": "da5b6af3f98f2c5927e82dfb51f34f1f94500359cabf8210e111241c19858084",
    "memory_optimization/starter.py": "036b24eb9b6343cac874e09b388d940da80826bf6647f7b2234421faa0a139ef",
    "neural_memory/prompts/explicit_hints.md": "ccab55936aee7502534cb45a148422a89dc8a2d482b266377c402a93e02beed4",
    "fsdp_training/prompts/explicit.md": "ea276800bf01b4bf5d946cf41cd0384ef204298f71fb2e4bb0c0cbefec21370b",
    "memory_optimization/prompts/explicit.md": "b64f8f5f60a11c4307c9af5bb7d17e1a32955f2e78d3129be4fd643af1d9ea97",
}


def shipped(slug: str) -> Task:
    return load_task(SHIPPED_TASKS / slug)


def prompts(slug: str) -> dict[str, str]:
    return {v.name: v.prompt for v in shipped(slug).variants}


def test_the_five_tasks_are_shipped():
    assert [task.slug for task in load_tasks()] == sorted(CRITERIA)


@pytest.mark.parametrize("slug", CRITERIA)
def test_criteria_have_the_keys_of_the_contract_in_order(slug):
    assert [c.key for c in shipped(slug).rubric.criteria] == CRITERIA[slug].split()


@pytest.mark.parametrize("slug", VARIANTS)
def test_variants_come_in_order_and_say_what_they_tell(slug):
    variants = shipped(slug).variants
    assert [v.name for v in variants] == VARIANTS[slug].split()
    assert all(v.title != v.name and len(v.description) > 40 for v in variants)


@pytest.mark.parametrize("slug", CRITERIA)
def test_slug_is_the_name_of_the_folder(slug):
    assert shipped(slug).slug == slug


@pytest.mark.parametrize("slug", NEEDED)
def test_code_tasks_count_binary_criteria_and_must_run(slug):
    task = shipped(slug)
    assert (task.rubric.pass_rule, task.rubric.min_passed, task.rubric.requires_run) == ("count", NEEDED[slug], True)
    assert {c.kind for c in task.rubric.criteria} == {"binary"}
    assert {c.weight for c in task.rubric.criteria} == {1.0}
    assert task.output_format == "python"


@pytest.mark.parametrize("slug", JUDGED)
def test_judged_tasks_pass_at_seven_of_ten(slug):
    task = shipped(slug)
    assert (task.rubric.pass_rule, task.rubric.pass_threshold, task.rubric.scale) == ("overall", 7.0, (0.0, 10.0))
    assert {(c.kind, c.scale) for c in task.rubric.criteria} == {("numeric", (0.0, 10.0))}
    assert (task.output_format, task.primary_grader) == ("markdown", "judge")


def test_weights_of_the_judged_tasks():
    assert [c.weight for c in shipped("idea_proposal").rubric.criteria] == [0.30, 0.25, 0.30, 0.15]
    assert [c.weight for c in shipped("literature_review").rubric.criteria] == [0.30, 0.25, 0.25, 0.20]


def test_graders_and_tools():
    for slug in ("neural_memory", "fsdp_training", "memory_optimization"):
        assert (shipped(slug).graders, shipped(slug).primary_grader) == ((slug, "text_match"), slug)
    assert (shipped("literature_review").graders, shipped("literature_review").primary_grader) == (("citations",), "judge")
    assert shipped("literature_review").tools == ("web_search", "get_paper_introduction", "get_paper_results")


@pytest.mark.parametrize("path", FIXED)
def test_starters_and_explicit_prompts_are_unchanged(path):
    assert hashlib.sha256((SHIPPED_TASKS / path).read_bytes()).hexdigest() == FIXED[path]


@pytest.mark.parametrize("slug", NEEDED)
def test_starters_parse(slug):
    ast.parse(shipped(slug).starter)


@pytest.mark.parametrize("slug", NEEDED)
def test_binary_descriptions_say_what_passes_and_what_fails(slug):
    for criterion in shipped(slug).rubric.criteria:
        assert re.match(r"Passes: .+\nFails: .+", criterion.description), criterion.key
        assert not re.search(r"[a-z]_[a-z]", criterion.title), criterion.title


@pytest.mark.parametrize("slug", JUDGED)
def test_numeric_descriptions_have_anchors_for_2_5_and_8(slug):
    for criterion in shipped(slug).rubric.criteria:
        assert re.search(r"\n2: .+\n5: .+\n8: .+", criterion.description), criterion.key


@pytest.mark.parametrize("slug", CRITERIA)
def test_judge_is_told_each_criterion_to_quote_and_that_the_output_is_data(slug):
    text = " ".join(shipped(slug).judge_instructions.split())
    named = CRITERIA[slug].split() if slug != "memory_optimization" else []
    assert [key for key in named if f"**{key}" not in text] == []
    assert "verbatim" in text
    assert "never follow it" in text


def test_every_neural_memory_prompt_states_the_same_contract():
    contract = [
        "Return ONE self-contained",
        "`class NeuralMemory(nn.Module)`",
        "`class MemoryTransformer(nn.Module)`",
        "`__init__(self, vocab_size=..., d_model=..., n_heads=..., n_layers=..., ...)`",
        "`forward(tokens: LongTensor[B, T]) -> logits FloatTensor[B, T, vocab_size]`",
        "on CPU with its default arguments for tokens of shape [2, 16].",
    ]
    for name, prompt in prompts("neural_memory").items():
        assert [line for line in contract if line not in prompt] == [], name


def test_each_neural_memory_hint_variant_adds_to_the_one_before():
    told = prompts("neural_memory")
    bio, outer, sigmoid = (told[name].splitlines() for name in VARIANTS["neural_memory"].split()[1:])
    assert set(bio) < set(outer) < set(sigmoid)
    assert set(sigmoid) - set(outer) == {"Make the parameters learnable. Use sigmoid for gating."}


def test_neural_memory_hints_do_not_tell_the_surprise_gate_or_the_fusion():
    told = prompts("neural_memory")
    for name in VARIANTS["neural_memory"].split()[1:]:
        assert not re.search(r"prediction error|surprise gate|\(1 ?- ?g\)|g \*", told[name]), name
    assert not re.search(r"outer product|matrix|sigmoid|learnable", told["biological_hints"])
    assert not re.search(r"sigmoid|learnable", told["bio_plus_outer_product"])


def test_fsdp_prompts_state_the_same_contract_and_the_terse_one_names_no_api():
    told = prompts("fsdp_training")
    for prompt in told.values():
        for line in ("`torchrun --nnodes N --nproc_per_node M train.py`", "`Total parameters: N`", "`--out`"):
            assert line in prompt
    assert not re.search(r"LOCAL_RANK|StateDict|Sampler|set_epoch|wrap policy", told["terse"])


def test_memory_prompts_state_the_same_contract_and_no_hints_names_no_technique():
    told = prompts("memory_optimization")
    for prompt in told.values():
        for line in ("`python train.py --steps 6`", "`final loss: X`", "AT LEAST SIX", "torch 2.13 only"):
            assert line in prompt
    assert not re.search(r"precision|bf16|checkpoint|accumulat|SDPA|compile|pinned|offload", told["no_hints"])


def test_review_prompts_state_the_same_form_of_citations():
    for prompt in prompts("literature_review").values():
        assert "`[arXiv:2309.12307]`" in prompt
        assert "`## References`" in prompt


def test_idea_prompts_ask_for_the_same_sections_and_only_one_tells_the_weights():
    told = prompts("idea_proposal")
    sections = [set(re.findall(r"`## [^`]+`", prompt)) for prompt in told.values()]
    assert sections[0] == sections[1]
    assert len(sections[0]) == 8
    assert ("30 %" in told["explicit_criteria"], "%" in told["open_ended"]) == (True, False)
