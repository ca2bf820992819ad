"""text_match: a plain baseline that looks for words in the source, as a simple keyword grader does.

It never runs the program and strips nothing: comments, strings and dead code count for it. It is here to be compared
with, so that people see what words alone get right and wrong. A criterion passes when each of its patterns is found
somewhere in the text. The first matching line is the evidence.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from graders.code import sha256_of_files
from graders.grade import CriterionScore, Evidence, Grade, grade_of
from tasks.task import Criterion, Task

PATTERNS: dict[str, dict[str, tuple[str, ...]]] = {
    "neural_memory": {
        "memory_class": (r"class\s+NeuralMemory\s*\(\s*(torch\.)?(nn\.)?Module",),
        "surprise_gate": (r"sigmoid", r"surpris|novel|prediction[_ ]error"),
        "learnable_decay": (r"nn\.Parameter", r"decay|forget|retention"),
        "outer_product": (r"outer|einsum|bmm|unsqueeze\(-1\)\s*[*@]\s*\w+\.unsqueeze\(-2\)",),
        "recurrent_update": (r"for\s+\w+\s+in\s+range\(|for\s+\w+\s+in\s+\w+\.unbind|for\s+\w+,\s*\w+\s+in\s+enumerate\(",),
        "memory_attention_gating": (r"\(?\b1(\.0?)?\s*-\s*\w*(g|gate|alpha|beta|mix)\w*|torch\.lerp",),
    },
    "fsdp_training": {
        "local_rank_device": (r"LOCAL_RANK|get_node_local_rank",),
        "wrap_policy": (r"auto_wrap_policy|ModuleWrapPolicy|fully_shard",),
        "full_state_dict": (r"FullStateDictConfig|full_state_dict\s*=\s*True", r"offload_to_cpu\s*=\s*True|cpu_offload\s*=\s*True"),
        "param_count": (r"Total parameters:", r"numel\(\)"),
        "distributed_sampler": (r"DistributedSampler", r"set_epoch"),
        "init_destroy": (r"init_process_group", r"destroy_process_group"),
        "runs_multi_node": (r"FullyShardedDataParallel|fully_shard|FSDP\(", r"\.backward\(\)", r"\.step\(\)"),
    },
    "memory_optimization": {
        "mixed_precision_autocast": (r"autocast\(",),
        "grad_scaler_or_bf16": (r"GradScaler|bfloat16",),
        "gradient_checkpointing": (r"checkpoint\(|checkpoint_sequential\(",),
        "gradient_accumulation": (r"accum",),
        "zero_grad_set_to_none": (r"set_to_none\s*=\s*True|zero_grad\(\)",),
        "no_grad_eval": (r"no_grad\(|inference_mode\(",),
        "sdpa_flash_attention": (r"scaled_dot_product_attention|flash_attn",),
        "low_memory_optimizer": (r"fused\s*=\s*True|foreach\s*=\s*False|Adafactor|8bit|SGD\(",),
        "cpu_offload": (r"offload",),
        "torch_compile": (r"torch\.compile\(",),
        "in_place_ops": (r"inplace\s*=\s*True|\.(add|mul|masked_fill|relu|div)_\(",),
        "del_and_empty_cache": (r"^\s*del\s+\w+", r"empty_cache\("),
        "channels_last": (r"channels_last",),
        "activation_offload": (r"save_on_cpu|saved_tensors_hooks",),
        "param_dtype_bf16": (r"\.to\(\s*(dtype\s*=\s*)?torch\.bfloat16|\.bfloat16\(\)|set_default_dtype\(torch\.bfloat16",),
        "loss_item_detach": (r"loss\.item\(\)|loss\.detach\(\)",),
        "pinned_memory_nonblocking": (r"pin_memory\s*=", r"non_blocking\s*=\s*True"),
        "chunked_loss": (r"chunk",),
    },
}


class TextMatchGrader:
    """Regular expressions on the source; `runs` of its grades is None."""

    name = "text_match"
    version = "1"
    kind = "code"
    runs_code = False
    tasks = tuple(PATTERNS)

    @cached_property
    def sha256(self) -> str:
        return sha256_of_files(Path(__file__))

    def criteria(self, task: str) -> tuple[str, ...]:
        return tuple(PATTERNS[task])

    def grade(
        self,
        task: Task,
        source: str,
        *,
        timeout_s: float | None = None,
        backend: str = "auto",
        on_progress: Callable[[str], None] | None = None,
    ) -> Grade:
        """Grade by the text alone; the limits and the backend have no meaning here."""
        began = time.monotonic()
        if on_progress:
            on_progress("reading the text")
        patterns = PATTERNS[task.slug]
        scores = [_score(criterion, patterns, source) for criterion in task.rubric.criteria]
        identity = {"name": self.name, "version": self.version, "sha256": self.sha256}
        return grade_of(task.slug, task.rubric, scores, runs=None, duration_s=round(time.monotonic() - began, 4), grader=identity)


def _score(criterion: Criterion, patterns: dict[str, tuple[str, ...]], source: str) -> CriterionScore:
    key, weight, (low, high) = criterion.key, criterion.weight, criterion.scale
    if key not in patterns:
        return CriterionScore(key, weight=weight, rationale="no words to look for", unscored_reason="undecided")
    found = [(p, re.search(p, source, re.IGNORECASE | re.MULTILINE)) for p in patterns[key]]
    missing = [pattern for pattern, match in found if match is None]
    if missing:
        return CriterionScore(key, False, low, weight, f"the text has no match for {missing[0]}")
    evidence = tuple(_evidence(source, match) for _, match in found if match)
    return CriterionScore(key, True, high, weight, "the text has the words", evidence)


def _evidence(source: str, match: re.Match[str]) -> Evidence:
    line = source.count("\n", 0, match.end()) + 1
    return Evidence(source.splitlines()[line - 1].strip()[:200], "static", line, line)
