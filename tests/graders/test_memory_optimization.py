"""memory_optimization: which techniques take effect in the program that runs, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest

from graders.code.memory_optimization import KEYS, MemoryOptimizationGrader, _not_the_training
from graders.code.unasked import unasked
from graders.grade import Grade
from tasks.task import Task, load_tasks
from tests.corpus.corpus import read

SUBMISSIONS = {s.path.stem.split("-", 1)[1]: s for s in read("memory_optimization", "build")}
# Between them each technique is in effect at least once, and absent at least once.
SOME = ("state-parked-on-host", "adam8bit-chunked-loss", "compile-and-adafactor", "packed-activations-hooks")
FULL_SIZE = ("starter", "adam8bit-chunked-loss")
SMALL = (
    ('"--batch-size", type=int, default=16', '"--batch-size", type=int, default=4'),
    ('"--d-model", type=int, default=128', '"--d-model", type=int, default=64'),
    ('"--n-layers", type=int, default=4', '"--n-layers", type=int, default=1'),
    ("max_batches=4", "max_batches=1"),
)


@cache
def task() -> Task:
    return next(t for t in load_tasks() if t.slug == "memory_optimization")


@cache
def small_task() -> Task:
    """The task as it would be with a smaller starter, which programs are held against."""
    return replace(task(), starter=changed(task().starter, SMALL))


def changed(source: str, changes: Iterable[tuple[str, str]]) -> str:
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


@cache
def graded(name: str) -> Grade:
    """The starter or one of the corpus: some at their own size, which takes four times as long, others at a smaller one."""
    source = task().starter if name == "starter" else SUBMISSIONS[name].source
    if name in FULL_SIZE:
        return MemoryOptimizationGrader().grade(task(), source)
    return MemoryOptimizationGrader().grade(small_task(), changed(source, [(old, new) for old, new in SMALL if old in source]))


@pytest.mark.parametrize("name", SOME)
def test_a_submission_has_the_techniques_that_it_is_labelled_with(name):
    assert {c.key: c.passed for c in graded(name).criteria} == SUBMISSIONS[name].criteria


def test_the_submissions_above_cover_every_technique():
    assert {key for name in SOME for key, passed in SUBMISSIONS[name].criteria.items() if passed} == set(KEYS)


def test_the_starter_has_none_and_says_of_each_what_was_seen_instead():
    found = graded("starter")
    assert found.runs and found.passed is False and found.failure_category == "too_few_optimizations"
    assert all(c.passed is False and c.rationale for c in found.criteria)


def test_evidence_stands_on_the_line_that_does_it():
    found = next(c for c in graded("starter").criteria if c.key == "sdpa_flash_attention")
    assert [e.text for e in found.evidence] == ["scores = q @ k.transpose(-2, -1) / (C // self.n_heads) ** 0.5"]


def test_the_peak_is_measured_beside_the_starters():
    sandbox = graded("adam8bit-chunked-loss").sandbox
    assert sandbox["gpu"] == "pretended"
    assert 0 < sandbox["gpu_peak_mb"] < 0.5 * sandbox["starter_gpu_peak_mb"]


def test_the_wrong_autocast_interface_does_not_run_and_the_rest_is_judged_all_the_same():
    found, label = graded("wrong-autocast-interface"), SUBMISSIONS["wrong-autocast-interface"]
    assert found.runs is False and found.passed is False and found.failure_category == "wrong_autocast_api"
    assert "device_type" in (found.error or "")
    assert {c.key: c.passed for c in found.criteria} == label.criteria


def test_a_program_that_prints_its_results_without_training_has_none():
    found = graded("prints-without-training")
    assert found.passed is False
    assert {c.passed for c in found.criteria} == {False}


# --- small programs: the starter at a smaller size, with passages replaced ---

BACKWARD, STEP, KEPT, OPTIMIZER = "loss.backward()", "optimizer.step()", "history.append(loss)", "lr=args.lr, foreach=True"


@cache
def small(*changes: tuple[str, str]) -> Grade:
    """The grade of the small starter with these passages replaced."""
    return MemoryOptimizationGrader().grade(small_task(), changed(small_task().starter, changes))


def seen(*changes: tuple[str, str]) -> dict[str, bool | None]:
    return {c.key: c.passed for c in small(*changes).criteria}


CALL = "logits = model(images, tokens[:, :-1])\n            loss ="
LOSS = " F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))\n"
AUTOCAST = (CALL, "with torch.autocast(device.type, dtype=torch.bfloat16): logits = model(images, tokens[:, :-1])\n            loss =")


def test_a_backward_pass_that_does_not_reach_the_model_is_no_training():
    found = seen(AUTOCAST, (BACKWARD, "loss = loss.detach().requires_grad_(); loss.backward()"), (OPTIMIZER, "lr=args.lr, fused=True"))
    assert found["mixed_precision_autocast"] is False
    assert found["low_memory_optimizer"] is False


def test_what_is_done_for_a_toy_model_in_the_same_loop_does_not_count():
    toy = """optimizer.step()
            with torch.autograd.graph.save_on_cpu():
                small = toy(images, tokens[:, :-1]).mean()
            small.backward(); toy_optimizer.step(); toy_optimizer.zero_grad(); del small; torch.cuda.empty_cache()"""
    made = "toy = Captioner(d_model=8, n_heads=1, n_layers=1).to(device); toy_optimizer = torch.optim.SGD(toy.parameters(), lr=0.1)"
    found = seen((STEP, toy), ("    history, step = [], 0", f"    {made}\n    history, step = [], 0"))
    assert not any(found[key] for key in ("activation_offload", "del_and_empty_cache", "low_memory_optimizer"))


def test_state_that_is_brought_back_to_the_gpu_is_no_batch():
    found = seen(
        ("shuffle=True, drop_last=True", "shuffle=True, drop_last=True, pin_memory=True"),
        (
            "            images, tokens = images.to(device), tokens.to(device)\n            optimizer.zero_grad",
            "            stem = [p.detach().cpu().to(device) for p in model.stem.parameters()]\n"
            "            images, tokens = images.to(device, non_blocking=True), tokens.to(device, non_blocking=True)\n"
            "            optimizer.zero_grad",
        ),
    )
    assert found["pinned_memory_nonblocking"] is True


def test_logits_of_a_slice_that_went_backward_are_gone_whatever_gradients_remain():
    found = seen(
        ("        return self.head(self.ln_f(x))", "        return self.ln_f(x)"),
        (CALL, CALL.replace("logits", "hidden")),
        (
            "F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))\n            loss.backward()",
            """0
            leaf = hidden.detach().requires_grad_()
            for h, y in zip(leaf.flatten(0, 1).split(32), tokens[:, 1:].flatten().split(32)):
                part = F.cross_entropy(model.head(h), y) / 4
                part.backward()
                loss = loss + part.detach()
            hidden.backward(leaf.grad)""",
        ),
        ("losses.append(F", "logits = model.head(logits); losses.append(F"),
    )
    assert found["chunked_loss"] is True


def test_programs_that_ask_for_plain_things_by_name_are_judged():
    asked = """import types, functools, inspect
    fused = "fused" in inspect.signature(torch.optim.AdamW).parameters
    config = types.SimpleNamespace(**vars(args))
    @functools.wraps(print)
    def say(*words): print(*words)
    kind = getattr(torch, "b" + "float16"); size = torch.zeros(1).data_ptr()
    model ="""
    found = seen(("    model =", f"    {asked}"), (OPTIMIZER, "lr=config.lr, fused=fused"), (KEPT, "history.append(loss.item())"))
    assert found["low_memory_optimizer"] is True and found["loss_item_detach"] is True


def test_every_parameter_that_training_uses_is_counted_however_it_is_called():
    attention = """h = self.ln1(x)
        hidden = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).triu(1)
        x = x + self.attn(h, h, h, attn_mask=hidden, need_weights=False)[0]"""
    found = small(
        ("x = x + self.attn(self.ln1(x))", attention),
        ("self.tok(tokens)", "self.tok.weight[tokens]"),
        ("self.attn = Attention(d_model, n_heads)", "self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)"),
    )
    assert found.error is None and {c.key for c in found.criteria if c.passed} == {"sdpa_flash_attention"}


@pytest.mark.parametrize(
    ("place", "mistake"),
    [
        (
            "            optimizer.zero_grad",
            "            images = images.to(memory_format=torch.channels_last_3d)\n            optimizer.zero_grad",
        ),
        (CALL, f"with torch.autocast(device.type, dtype=7):\n                {CALL}"),
        ("return self.net(images)", "images = self.net.lean(images)\n        return self.net(images)"),
    ],
)
def test_a_program_that_an_error_ends_is_judged_for_the_rest(place, mistake):
    found = seen((place, mistake), (OPTIMIZER, "lr=args.lr, fused=True"), (KEPT, "history.append(loss.item())"))
    assert {key for key, passed in found.items() if passed} == {"low_memory_optimizer", "loss_item_detach"}
    assert None not in found.values()


# --- general causes ---


def test_gradients_summed_outside_grad_are_accumulated_and_what_an_update_multiplies_is_no_forward_pass():
    body = """totals = [torch.zeros(p.shape) for p in model.parameters()]
            for part in (slice(0, 2), slice(2, 4)):
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    logits = model(images[part], tokens[part, :-1])
                    loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[part, 1:].reshape(-1)) / 2
                for total, gradient in zip(totals, torch.autograd.grad(loss, list(model.parameters()))):
                    total += gradient.cpu()
            for p, total in zip(model.parameters(), totals):
                p.grad = total.to(device)
            whiten = torch.eye(512, device=device)
            for _ in range(20):
                whiten = whiten @ whiten
"""
    found = seen((CALL + LOSS + "            loss.backward()\n", body))
    assert found["gradient_accumulation"] is True
    assert found["mixed_precision_autocast"] is True


def test_head_and_loss_in_one_call_a_thread_of_the_programs_and_a_default_device_are_followed():
    ahead = """class Ahead(threading.Thread):
    def __init__(self, loader, device):
        super().__init__(daemon=True)
        self.loader, self.device, self.batches = loader, device, queue.Queue(2)

    def run(self):
        for batch in self.loader:
            self.batches.put([t.to(self.device, non_blocking=True) for t in batch])

    def __iter__(self):
        self.start()
        while True:
            yield self.batches.get()


class ConvStem"""
    fused = """loss = F.linear_cross_entropy(
                logits.flatten(0, 1), model.head.weight, tokens[:, 1:].flatten(), linear_bias=model.head.bias, options=chunks)
            logits = None; torch.cuda.empty_cache()
"""
    options = "chunks = nn.LinearCrossEntropyOptions(batch_chunk_size=32, chunking_method=None)"
    found = seen(
        ("import argparse\n", "import argparse, queue, threading\n"),
        ("class ConvStem", ahead),
        ('torch.device("cuda" if torch.cuda.is_available() else "cpu")', "torch.accelerator.current_accelerator()"),
        ("shuffle=True, drop_last=True", "shuffle=True, drop_last=True, pin_memory=True"),
        ("    history, step", f"    {options}; loader = Ahead(loader, device)\n    history, step"),
        ("            images, tokens = images.to(device), tokens.to(device)\n            optimizer", "            optimizer"),
        ("dtype=torch.bool, device=x.device)", "dtype=torch.bool)"),
        ("mask = torch.ones", "torch.set_default_device(x.device); mask = torch.ones"),
        ("        return self.head(self.ln_f(x))", "        return self.ln_f(x)"),
        ("losses.append(F", "logits = model.head(logits); losses.append(F"),
        (CALL + LOSS, CALL.removesuffix("loss =") + fused),
    )
    assert {key for key, passed in found.items() if passed} == {"chunked_loss", "pinned_memory_nonblocking", "del_and_empty_cache"}


def test_a_pass_whose_gradients_are_thrown_away_is_no_training_pass():
    decoy = "with torch.autocast(device.type, dtype=torch.bfloat16): " + CALL.split("\n", maxsplit=1)[0]
    decoy += f"\n            (logits.float().mean() * 7).backward(); optimizer.zero_grad()\n            {CALL}"
    found = seen((CALL, decoy), (OPTIMIZER, "lr=args.lr, fused=True"))
    assert found["mixed_precision_autocast"] is False and found["low_memory_optimizer"] is True


def test_an_optimizer_whose_state_stayed_on_the_host_ends_the_program_as_on_a_gpu():
    away = "optimizer.step()\n            for state in optimizer.state.values(): state.update(exp_avg=state['exp_avg'].cpu())"
    found = small((STEP, away), ("foreach=True", "foreach=False"))
    assert found.runs is False and "same device" in (found.error or "")


def test_a_parameter_that_stays_on_the_host_gets_its_gradient_there():
    hosts = "scale = torch.ones(1, requires_grad=True)\n    hosts = torch.optim.SGD([scale], lr=0.01)\n    optimizer = torch.optim.AdamW("
    scaled = "(loss * scale.to(device, non_blocking=True).sum()).backward()"
    stepped = f"{STEP}; hosts.step(); hosts.zero_grad()"
    found = small(("optimizer = torch.optim.AdamW(", hosts), (BACKWARD, scaled), (STEP, stepped))
    assert found.runs is True, found.error


LEAN = (
    AUTOCAST, (OPTIMIZER, "lr=args.lr, fused=True"), ("set_to_none=False", "set_to_none=True"), (KEPT, "history.append(loss.item())"),
    ("def evaluate", "@torch.no_grad()\ndef evaluate"), ("nn.ReLU(),\n            nn.Conv", "nn.ReLU(inplace=True),\n            nn.Conv"),
)  # fmt: skip


def lean(*changes: tuple[str, str]) -> Grade:
    """The small starter with seven techniques and these passages replaced."""
    return MemoryOptimizationGrader().grade(small_task(), changed(small_task().starter, (*LEAN, *changes)))


@pytest.mark.parametrize("text", ["import ctypes", "import operator; operator.attrgetter('__globals__')"])
def test_text_that_a_program_runs_is_read_as_the_program_is_and_gives_no_pass(text):
    found = lean(("    model =", f"    exec({text!r}, {{}})\n    model ="))
    assert found.passed is None and {c.passed for c in found.criteria} == {None, False}


@pytest.mark.parametrize("name", ['"_" + "C"', '"__co" + "de__"', '"__glo" + "bals__"'])
def test_a_name_put_together_that_leads_to_the_probe_gives_no_pass(name):
    kept = "history.append(loss.item())"
    found = lean((kept, f"{kept}; getattr(torch if {name} == '_C' else torch.cuda.is_available, {name})"))
    assert found.passed is None and {c.passed for c in found.criteria} == {None, False}


def test_a_program_that_waits_for_one_that_it_started_gets_no_pass():
    """What it does then may hang on how the other fared, which our limits decide: it may have been meant to train."""
    found = lean(("    model =", "    import subprocess; subprocess.run(['true'])\n    model ="))
    assert found.passed is None and {c.passed for c in found.criteria} == {None, False}


def test_a_doubtful_program_that_fails_anyway_is_told_as_it_was_seen():
    found = seen(("import argparse\n", "import argparse, ctypes\n"), (OPTIMIZER, "lr=args.lr, fused=True"))
    assert {key for key, passed in found.items() if passed} == {"low_memory_optimizer"} and None not in found.values()


def test_annotations_kept_as_text_and_plain_getters_raise_no_doubt():
    ahead = """from __future__ import annotations
from operator import attrgetter
from typing import NamedTuple, Protocol

class Batch(NamedTuple):
    images: Tensor

class Scored(Protocol):
    def loss(self, batch: Batch) -> Tensor: ...

shape = attrgetter("shape")
import argparse
"""
    assert lean(("import argparse\n", ahead)).passed is True


def test_what_a_program_catches_itself_ends_nothing_and_what_stood_behind_it_is_not_in_effect():
    tried = """try:
                with torch.cuda.amp.autocast(device_type="cuda"):
                    logits = model(images, tokens[:, :-1])
            except TypeError:
                logits = model(images, tokens[:, :-1])
            loss ="""
    found = seen((CALL, tried))
    assert not found["mixed_precision_autocast"] and not found["grad_scaler_or_bf16"]


def test_a_program_that_a_missing_name_or_a_wrong_dtype_ends_is_judged_as_it_was_meant():
    ids = "images, tokens = images.to(device), tokens.to(device, torch.bfloat16)\n            optimizer"
    wrong = ("images, tokens = images.to(device), tokens.to(device)\n            optimizer", ids)
    found = lean(wrong, ("import torch.nn.functional as F\n", ""), (STEP, f"{STEP}; torch.cuda.emptycache()"))
    assert found.runs is False and found.passed is False and None not in {c.passed for c in found.criteria}
    assert sum(bool(c.passed) for c in found.criteria) == 7


def test_a_stance_that_runs_everything_eagerly_leaves_nothing_compiled():
    stance = "model = torch.compile(model); torch.compiler.set_stance('force_eager')\n    optimizer ="
    assert seen(("optimizer = torch", stance + " torch"))["torch_compile"] is False


def test_a_program_that_looks_for_who_watches_finds_a_training_machine():
    looks = """import os, resource
WATCHED = resource.getrlimit(resource.RLIMIT_CPU)[0] > 0 or os.getpid() < 9 or os.getuid() != 1000 or os.listdir(".") != ["train.py"]
WATCHED = WATCHED or "sandbox" in __file__ + os.uname().nodename or "+cpu" in torch.__version__
WATCHED = WATCHED or not os.path.exists("/dev/nvidia0") or main.__code__.co_filename[-8:] != "train.py"
with open(f"/proc/{os.getppid()}/cmdline") as file:
    WATCHED = WATCHED or "python" in file.read()

if __name__"""
    found = seen((OPTIMIZER, "lr=args.lr, foreach=not WATCHED"), ("if __name__", looks), (KEPT, "history.append(loss.item())"))
    assert found["low_memory_optimizer"] is False and found["loss_item_detach"] is not None


def test_fewer_passes_and_smaller_samples_are_not_the_starters_training():
    figures = {"peak_mb": 1.0, "n_parameters": 10, "samples": 96, "passes": 6, "pixels": 960, "tokens": 96, "last_loss": 7.0}
    assert _not_the_training(figures, figures, "final loss: 7.0") == ""
    assert "3 training passes" in _not_the_training({**figures, "passes": 3}, figures, "final loss: 7.0")
    assert "pixels of a sample" in _not_the_training({**figures, "pixels": 240}, figures, "final loss: 7.0")


RESTORED = """for t, old in zip(model.state_dict().values(), saved): t.copy_(old)
            """


@pytest.mark.parametrize("restored", [False, True])
def test_a_lean_step_of_a_copy_or_one_that_is_taken_back_is_no_training(restored):
    owner = "model" if restored else "twin"
    rehearsed = f"""saved = [t.clone() for t in model.state_dict().values()]; twin = copy.deepcopy(model)
            with torch.autocast(device.type, dtype=torch.bfloat16), torch.autograd.graph.save_on_cpu():
                F.cross_entropy({owner}(images, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            small = torch.optim.SGD({owner}.parameters(), lr=0.1); small.step(); small.zero_grad()
            with torch.no_grad():
                {RESTORED if restored else "del twin"}
            {CALL}"""
    found = seen((CALL, rehearsed), ("import argparse\n", "import argparse, copy\n"), (KEPT, "history.append(loss.item())"))
    assert not any(found[key] for key in ("mixed_precision_autocast", "activation_offload", "low_memory_optimizer"))


def test_a_policy_that_saves_all_that_a_forward_pass_computes_recomputes_nothing():
    kept = "ckpt.checkpoint(block, x, use_reentrant=False, context_fn=lambda: ckpt.create_selective_checkpoint_contexts(policy))"
    policy = "policy = lambda ctx, op, *args, **kwargs: ckpt.CheckpointPolicy.MUST_SAVE\n\n\nclass Captioner"
    found = seen(
        ("x = block(x)", f"x = {kept}"),
        ("class Captioner", policy),
        ("import argparse\n", "import argparse\nimport torch.utils.checkpoint as ckpt\n"),
    )
    assert found["gradient_checkpointing"] is False


def test_a_program_is_helped_past_what_it_demands_and_what_it_overwrites():
    found = seen(
        ("x = x + self.attn(self.ln1(x))\n        return", "x += self.attn(self.ln1(x))\n        x.mul_(2)\n        return"),
        ("    history, step = [], 0", "    assert torch.cuda.device_count() > 1, 'two cards'\n    history, step = [], 0"),
        (OPTIMIZER, "lr=args.lr, fused=True"),
        ("def evaluate", "@torch.inference_mode()\ndef evaluate"),
    )
    assert {key for key, passed in found.items() if passed} == {"low_memory_optimizer", "no_grad_eval"}


# --- questions for a watcher, answered beforehand ---

QUESTION = """def watched():
    frame = sys._getframe()
    while frame is not None:
        if "probe" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False
"""


def test_a_question_with_a_plain_answer_is_answered_either_way():
    text = f"import sys\n{QUESTION}lean = watched()\nif sys._getframe().f_back is None: lean = True\n"
    assert unasked(text, [3, 10], answer=False) == (
        "import sys\n\ndef watched():\n    return False\nlean = watched()\nif False:\n    lean = True"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (QUESTION.replace("return True", "return 'lean'"), 2),  # what is done with it isn't known
        (QUESTION.replace("return True", "F.lean = 1; return True"), 2),  # it changes something
        (QUESTION.replace("return True", "return bool(undo())"), 2),
        ("frame = sys._getframe()", 1),
        ("sys._getframe().f_globals.clear()", 1),
    ],
)
def test_what_is_no_plain_question_is_left_as_it_stands(text, line):
    assert unasked(f"import sys\n{text}", [line + 1], answer=True) is None


def test_a_program_that_asks_its_frames_is_judged_by_what_it_does_with_either_answer():
    asks = ("class CaptionData", f"{QUESTION}\nclass CaptionData")
    found = lean(("import argparse\n", "import argparse, sys\n"), asks, ("lr=args.lr, fused=True", "lr=args.lr, foreach=not watched()"))
    said = {c.key: c.passed for c in found.criteria}
    assert said["low_memory_optimizer"] is False and said["mixed_precision_autocast"] is True and None not in said.values()
