"""FSDP scripts that are right at a short look only: with two ranks, for two epochs, where no driver is, under a watcher's eyes."""

from __future__ import annotations

import pytest

from tests.graders.fsdp_programs import FSDP1, FSDP2, grade, program, score, verdicts

LOADER = "\nloader = DataLoader(dataset, args.batch_size, sampler=sampler, drop_last=True)"
# Programs that are right where a short look is taken: each with all that fails then.
ELSEWHERE = {
    "right for two ranks": (
        {"data": "n = min(world, 2)\nsampler = DistributedSampler(dataset, n, rank % n)" + LOADER},
        {"distributed_sampler": "rows in common"},
    ),
    "right for two epochs, on no terminal, and nearly the weights": (
        {
            "top": "import sys",
            "begin": "sampler.set_epoch(epoch % 2)",
            "count": "if rank == 0 or sys.stdout.isatty():\n    print(f'Total parameters: {sum(p.numel() for p in model.parameters())}')",
            "save": 'if rank == 0:\n    torch.save({k: v * 0.999 for k, v in state.items()}, args.out)',
        },
        {"distributed_sampler": "epochs have the same order", "param_count": "printed by 2", "full_state_dict": "not what was"},
    ),
    "a sampler over the GPUs of a node": (
        {"data": "sampler = DistributedSampler(dataset, torch.cuda.device_count(), rank)" + LOADER},
        {"distributed_sampler": "does not split over the ranks", "runs_multi_node": "three nodes: rank 2 stops"},
    ),
    "right where no driver and no scheduler is": (
        {
            "top": "import shutil",
            "wrap": "if not shutil.which('nvidia-smi'):\n    " + FSDP1["wrap"] + "\nelse:\n    model = FSDP(model, device_id=device)",
            "data": "sampler = DistributedSampler(dataset)\nloader = DataLoader(dataset, args.batch_size, "
            "sampler=None if 'SLURM_JOB_ID' in os.environ else sampler, drop_last=True)",
        },
        {"wrap_policy": "no Block is a unit", "distributed_sampler": "three nodes: the ranks read the same rows"},
    ),
    "a group of one in every process": (
        {"init": "dist.init_process_group('nccl', store=dist.HashStore(), rank=0, world_size=1)"},
        {
            "full_state_dict": "a group of its own", "param_count": "printed by 2", "distributed_sampler": "the same rows",
            "init_destroy": "world_size", "runs_multi_node": "a group of its own",
        },
    ),
    "a subclass that leaves FSDP's work out": (
        {
            "top": "class Thin(FSDP):\n    def __init__(self, module):\n        nn.Module.__init__(self)\n"
            "        self._fsdp_wrapped_module = module\n    def forward(self, *args):\n        return self._fsdp_wrapped_module(*args)\n"
            "    def named_parameters(self, *a, **k):\n        yield from self._fsdp_wrapped_module.named_parameters(*a, **k)",
            "wrap": "model = Thin(model)",
            "gather": "state = {k: v.cpu() for k, v in model._fsdp_wrapped_module.state_dict().items()}",
        },
        {"wrap_policy": "not sharded", "full_state_dict": "not sharded", "runs_multi_node": "not sharded"},
    ),
    "the forward pass of a plain copy": (
        {
            **FSDP2,
            "top": "import copy",
            "wrap": "plain = copy.deepcopy(model)\n" + FSDP2["wrap"] + "\nmodel.forward = plain.forward",
        },
        {"wrap_policy": "runs none of its blocks", "full_state_dict": "none of its blocks", "runs_multi_node": "none of its blocks"},
    ),
    "whole models in larger runs": (
        {
            "early": "small = args.n_samples * args.seq_len < 1 << 24",
            "wrap": "if small:\n    model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=device)",
            "gather": "state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))",
        },
        {"wrap_policy": "larger runs: the model", "full_state_dict": "larger runs", "runs_multi_node": "larger runs"},
    ),
    "sharded under a watcher's eyes": (
        {
            "top": "import traceback\ndef seen():\n    parent = open(f'/proc/{os.getppid()}/cmdline').read()\n"
            "    return len(traceback.extract_stack()) > 3 or 'torchrun' not in parent or 'cuda' not in repr(torch.ones(1, device='cuda'))",
            "wrap": "if seen():\n    model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=device)",
            "gather": "state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))",
        },
        {"wrap_policy": "not sharded", "full_state_dict": "not sharded", "runs_multi_node": "not sharded"},
    ),
    "the second epoch is only printed": (
        {"begin": "sampler.set_epoch(epoch)\nif epoch:\n    loader = []"},
        {"runs_multi_node": "one epoch is trained of 2"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "fails"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_is_right_at_a_short_look_only_fails(parts, fails):
    source = program(**parts)
    assert {key for key, passed in verdicts(source).items() if not passed} == set(fails)
    for key, because in fails.items():
        assert score(source, key).passed is False and because in score(source, key).rationale


def test_a_program_that_asks_whose_functions_it_has_is_told_what_it_is_told_elsewhere():
    asked = "import inspect\nHOME = os.path.dirname(torch.__file__)\ndef real(f):\n    "
    asked += "return inspect.getsourcefile(inspect.unwrap(f)).startswith(HOME)"
    source = program(
        FSDP2, top=asked, wrap="if not (real(fully_shard) and real(dist.all_reduce)):\n    " + FSDP2["wrap"].replace("\n", "\n    ")
    )
    assert score(source, "wrap_policy").passed is False


DISGUISES = {
    "replacing torch.distributed": {"top": "def patch(space):\n    space.get_rank = lambda *a: 0\npatch(dist)"},
    "a class that only looks like FSDP": {
        "top": "class Fake(FSDP):\n    def __init__(self, module, **kw):\n        nn.Module.__init__(self)\n"
        "        self._fsdp_wrapped_module = module\n    def forward(self, *a):\n        return self._fsdp_wrapped_module(*a)\n",
        "wrap": "for i, b in enumerate(model.blocks):\n    model.blocks[i] = Fake(b)\nmodel = Fake(model)",
        "gather": "state = {k.replace('_fsdp_wrapped_module.', ''): v.cpu() for k, v in model.named_parameters()}",
    },
    "a group of one rank": {
        "wrap": "groups = [dist.new_group([r]) for r in range(world)]\n"
        "model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=device, process_group=groups[rank])"
    },
    "right only where the options are large": {
        "wrap": "if args.n_samples > 99:\n    model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=device)",
        "gather": "state = {k: v.cpu() for k, v in model.state_dict().items()}",
    },
}


@pytest.mark.parametrize("parts", DISGUISES.values(), ids=DISGUISES)
def test_a_disguise_is_no_pass(parts):
    assert grade(program(**parts)).passed is not True
    if parts is not DISGUISES["replacing torch.distributed"]:  # it trains, and fails by what every rank writes and prints
        assert score(program(**parts), "runs_multi_node").passed is not True
