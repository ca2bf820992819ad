"""A right FSDP training script in replaceable parts, and what the grader says of one.

The programs here are ours, so they need no sandbox: one process imports torch once and forks for each of them.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path

from graders.code.channel import PROBES, Answer
from graders.code.fsdp_runs import check_report
from graders.code.fsdp_training import FSDPTrainingGrader
from graders.code.source import read_source
from graders.grade import CriterionScore, Grade
from graders.sandbox import Result
from tasks.task import SHIPPED_TASKS, Task, load_task

WARM = Path(__file__).with_name("fsdp_warm.py")
STARTER = (SHIPPED_TASKS / "fsdp_training" / "starter.py").read_text()
HEAD = """\
import functools, os
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullStateDictConfig, StateDictType, fully_shard
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, lambda_auto_wrap_policy, size_based_auto_wrap_policy, transformer_auto_wrap_policy
from torch.utils.data import DistributedSampler
"""
MAIN = """\
{top}


def main():
    args = parse_args()
    {device}
    {init}
    rank, local_rank, world = dist.get_rank(), int(os.environ["LOCAL_RANK"]), dist.get_world_size()
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    {early}
    {count}
    {wrap}
    {optimizer}
    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    {data}
    for epoch in range(args.epochs):
        {begin}
        total = 0.0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            logits = {forward}
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            {step}
            total += loss.item()
        if rank == 0:
            print(f"epoch {epoch} loss {total / max(1, len(loader)):.4f}")
    {gather}
    {save}
    {end}


if __name__ == "__main__":
    main()
"""
FSDP1 = {
    "top": "",
    "device": 'torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))\ndevice = torch.device("cuda", int(os.environ["LOCAL_RANK"]))',
    "init": 'dist.init_process_group("nccl")',
    "early": "pass",
    "count": 'if rank == 0:\n    print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")',
    "wrap": "model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=device)",
    "optimizer": "optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)",
    "data": "sampler = DistributedSampler(dataset)\nloader = DataLoader(dataset, args.batch_size, sampler=sampler, drop_last=True)",
    "begin": "sampler.set_epoch(epoch)",
    "forward": "model(x)",
    "step": "optimizer.step()",
    "gather": "cfg = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)\n"
    "with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT, cfg):\n"
    "    state = model.state_dict()",
    "save": 'if rank == 0:\n    torch.save({"model": state, "args": vars(args)}, args.out)',
    "end": "dist.destroy_process_group()",
}
# Plain descent: with parameters that are sharded one by one, Adam takes half of the time of a launch.
FSDP2 = {
    **FSDP1,
    "optimizer": "optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)",
    "wrap": "for block in model.blocks:\n    fully_shard(block)\nfully_shard(model)",
    "gather": "state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))",
}


def program(base: dict[str, str] | None = None, **parts: str) -> str:
    """The starter's data and model with a main of our own; more than one line in a part is fine."""
    chosen = {**(base or FSDP1), **parts}
    assert set(chosen) == set(FSDP1), set(chosen) - set(FSDP1)
    text = MAIN
    for name, code in chosen.items():
        before = text.split("{" + name + "}")[0].rpartition("\n")[2]
        indent = before[: len(before) - len(before.lstrip())]
        text = text.replace("{" + name + "}", code.replace("\n", "\n" + indent))
    kept = STARTER[: STARTER.index("def main():")]
    return HEAD + kept + text


@lru_cache(maxsize=1)
def task() -> Task:
    return load_task(SHIPPED_TASKS / "fsdp_training")


@lru_cache(maxsize=1)
def _warm() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(WARM), str(PROBES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    atexit.register(process.kill)
    return process


@cache
def grade(source: str) -> Grade:
    """The grade of a program of ours, probed without a sandbox."""
    process = _warm()
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(source) + "\n")
    process.stdin.flush()
    report = json.loads(process.stdout.readline())
    assert check_report(report) == ""
    result = Result("none", 0, None, False, "", 0.0, 0.0, 0.0, "", "")
    return FSDPTrainingGrader()._grade_of(task(), read_source(source), Answer(result, report))


def verdicts(source: str) -> dict[str, bool | None]:
    return {c.key: c.passed for c in grade(source).criteria}


def score(source: str, criterion: str) -> CriterionScore:
    return next(c for c in grade(source).criteria if c.key == criterion)


def check_fails(source: str, criterion: str, *, because: str, others_pass: bool = True) -> None:
    """The criterion fails for that reason, and (unless it stops the program) nothing else does."""
    row = score(source, criterion)
    assert row.passed is False, f"{criterion}: {row.passed} because {row.rationale}"
    assert because in row.rationale
    if others_pass:
        assert {key for key, passed in verdicts(source).items() if not passed} == {criterion}
