"""The FSDP grader, criterion by criterion: what passes, and each known near-miss with the reason that it fails for."""

from __future__ import annotations

import pytest

from tests.graders.fsdp_programs import FSDP1, FSDP2, check_fails, grade, program, score, verdicts

ALL = {
    "local_rank_device", "wrap_policy", "full_state_dict", "param_count", "distributed_sampler", "init_destroy", "runs_multi_node",
}  # fmt: skip
COUNT = 'print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")'
AFTER = FSDP1["optimizer"] + "\nif rank == 0:\n    "
LOADER = "\nloader = DataLoader(dataset, args.batch_size, sampler=sampler, drop_last=True)"
NOT_GIVEN = "sampler = DistributedSampler(dataset)\nloader = DataLoader(dataset, args.batch_size, shuffle=True)"
BLOCK_BY_BLOCK = """\
for i, block in enumerate(model.blocks):
    model.blocks[i] = FSDP(block, device_id=device)
model = FSDP(model, device_id=device)"""
SHARDED = "with FSDP.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):\n    state = model.state_dict()"
SAMPLED = "\nif rank == 0 and epoch:\n    print(model(x).shape)"
BY_HAND = """\
class Batches:
    def __len__(self):
        return len(dataset) // world // args.batch_size
    def __iter__(self):
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(args.seed + self.epoch))
        mine = order[rank::world].split(args.batch_size)
        return ((dataset.data[rows, :-1], dataset.data[rows, 1:]) for rows in mine)
loader = Batches()"""


def test_a_right_fsdp1_script_passes_every_criterion():
    found = grade(program())
    assert found.passed and found.runs and {c.key for c in found.criteria if c.passed} == ALL


def test_a_right_fsdp2_script_passes_every_criterion():
    assert grade(program(FSDP2)).passed


def test_other_right_ways_pass_too():
    source = program(
        device="device = torch.device('cuda', int(os.environ['LOCAL_RANK']))",
        init="dist.init_process_group('cpu:gloo,cuda:nccl', device_id=device)\ntorch.cuda.set_device(device)",
        count="n = sum(p.numel() for p in model.parameters())\nif rank == 0:\n    print('Total parameters:', n)",
        wrap=BLOCK_BY_BLOCK,
        data=BY_HAND,
        begin="loader.epoch = epoch",
        gather=FSDP2["gather"],
        end="dist.barrier(device_ids=[local_rank])\nif dist.is_initialized():\n    dist.destroy_process_group()",
    )
    assert grade(source).passed, [c.rationale for c in grade(source).criteria if not c.passed]


def test_tools_of_a_gpu_blocks_without_a_list_and_options_of_a_class_change_nothing():
    source = program(
        FSDP2,
        top="class Config:\n    rate = 1",
        early="dice = torch.Generator(device='cuda').manual_seed(1)",
        save='if rank == 0:\n    torch.save({"model": state, "config": Config(), "torch": torch.__version__}, args.out)',
        wrap="for part in model.children():\n    if isinstance(part, Block):\n        part.compile()\n        fully_shard(part)\n"
        "fully_shard(model)",
        step="torch.cuda.nvtx.range_push('step')\nx.record_stream(torch.cuda.current_stream())\noptimizer.step()\ntorch.cuda.nvtx.range_pop()",
    )
    listed, held = (
        "self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))",
        "self.n = n_layers\n        for i in range(self.n):",
    )
    source = source.replace(listed, held + "\n            self.add_module(f'block{i}', Block(d_model, n_heads))")
    source = source.replace("in self.blocks:", "in (getattr(self, f'block{i}') for i in range(self.n)):")
    assert grade(source).passed, [c.rationale for c in grade(source).criteria if not c.passed]


def test_how_a_script_is_built_and_what_it_does_at_large_changes_nothing():
    source = program(
        FSDP2,
        top="import dataclasses\nimport torch.distributed.checkpoint as dcp\nfrom torch.distributed.fsdp import CPUOffloadPolicy\n"
        "@dataclasses.dataclass\nclass Config:\n    rate: float = 1.0\nassert dataclasses.fields(Config)[0].type is float\n"
        "class WithLoss(nn.Module):\n    def __init__(self, net):\n        super().__init__()\n        self.net = net\n"
        "    def forward(self, batch):\n        return self.net(batch.x)",
        wrap="for i, block in enumerate(model.blocks):\n    model.blocks[i] = torch.compile(block)\n    fully_shard(model.blocks[i])\n"
        "whole = fully_shard(WithLoss(model))\nlevel = os.environ.get('LOG_LEVEL', 'INFO')\n"
        "assert len(list(model.parameters())[0].shape) == 2\n"
        "fast = CPUOffloadPolicy() if world > 8 or os.environ.get('LEAN') else None",
        optimizer="parts = [[p for p in whole.parameters() if (p.ndim >= 2) is many] for many in (True, False)]\n"
        "optimizers = [torch.optim.AdamW(part, lr=args.lr) for part in parts]",
        forward="whole(batch=dataclasses.make_dataclass('Batch', ['x'])(x))",
        step="for optimizer in optimizers:\n    optimizer.step()",
        gather=FSDP2["gather"].replace("(model,", "(whole,") + "\nstate = {k.removeprefix('net.'): v for k, v in state.items()}\n"
        "dcp.save({'model': get_model_state_dict(model)}, checkpoint_id='shards')",
    ).replace("optimizer.zero_grad()", "whole.zero_grad()")
    assert grade(source).passed, [c.rationale for c in grade(source).criteria if not c.passed]


SIDE_GROUP = "side = dist.new_group()\ndist.barrier()\ndist.destroy_process_group(side)"
# Mistakes that don't stop the program, several in one file: each fails its own criterion for its own reason.
QUIET = [
    {
        "wrap_policy": ("wrap", "model = FSDP(model, device_id=device)", "no Block is a unit of its own"),
        "full_state_dict": ("save", "torch.save(state, args.out)", "every rank writes the file"),
        "param_count": ("count", COUNT, "printed by 2 of 2 ranks"),
        "distributed_sampler": ("begin", "pass", "set_epoch is never called"),
        "init_destroy": ("top", "setattr(dist, 'destroy_process_group', lambda: None)", "destroy_process_group is never called"),
    },
    {
        "wrap_policy": (
            "wrap",
            "model = FSDP(model, auto_wrap_policy=functools.partial(size_based_auto_wrap_policy, min_num_params=99), device_id=device)",
            "a size-based policy",
        ),
        "full_state_dict": ("gather", "state = model.state_dict()", "without offload to the CPU and rank0_only"),
        "param_count": ("optimizer", AFTER + COUNT.replace("ters())}", "ters()) * world}"), "the whole model has"),
        "distributed_sampler": ("data", "sampler = DistributedSampler(dataset, seed=rank)" + LOADER, "rows in common"),
        "init_destroy": ("end", "if rank == 0:\n    dist.destroy_process_group()", "not by rank 1"),
    },
    {
        "wrap_policy": (
            "wrap",
            "model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({nn.MultiheadAttention}), device_id=device)",
            "no Block is a unit of its own",
        ),
        "full_state_dict": ("gather", SHARDED, "SHARDED_STATE_DICT"),
        "param_count": ("optimizer", AFTER + COUNT, "was printed, the whole model has"),
        "distributed_sampler": ("data", NOT_GIVEN,
                                "the sampler is not given to the loader"),
        "init_destroy": ("init", "dist.init_process_group('gloo')", "backend gloo"),
    },
    {
        "local_rank_device": (
            "device",
            "device = torch.device('cuda', int(os.environ['RANK']) % torch.cuda.device_count())\ntorch.cuda.set_device(device)",
            "a guess from rank and device_count",
        ),
        "full_state_dict": ("save", "if local_rank == 0:\n    torch.save({'model': state}, args.out)", "every rank writes the file"),
        "param_count": ("count", "if rank == 0:\n    print(f'Total parameters: {35575}')", "35575 was printed"),
        "distributed_sampler": ("data", "sampler = DistributedSampler(dataset, 1, 0)" + LOADER, "splits over 1 of 2 ranks"),
        "init_destroy": ("end", SIDE_GROUP, "a group beside the default one"),
    },
    {
        "full_state_dict": ("gather", FSDP1["gather"] + "\nstate = {k: 0 * v for k, v in state.items()}", "is not what was trained"),
        "param_count": ("count", "if rank == 0:\n    print('Total params: 5')", "another form"),
        "distributed_sampler": ("begin", "sampler.set_epoch(0)", "does not depend on the epoch"),
        "runs_multi_node": ("optimizer", "optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)", "change no parameter"),
    },
]  # fmt: skip


@pytest.mark.parametrize("mistakes", QUIET)
def test_each_near_miss_fails_its_criterion_for_its_reason(mistakes):
    parts = {part: code for part, code, _ in mistakes.values()}
    if parts.get("optimizer", "").startswith(AFTER):
        parts["count"] = "pass"  # the count is taken after the wrapping
    source = program(**parts)
    for key, (_, _, because) in mistakes.items():
        row = score(source, key)
        assert row.passed is False, f"{key}: {row.passed} because {row.rationale}"
        assert because in row.rationale
    assert {key for key, passed in verdicts(source).items() if not passed} == set(mistakes)


# Mistakes that stop the program or keep it from learning: the rest of it is judged all the same.
LOUD = {
    "policy called on the spot": (
        {"wrap": "model = FSDP(model, auto_wrap_policy=lambda_auto_wrap_policy(lambda m: isinstance(m, Block)), device_id=device)"},
        {"wrap_policy": "called on the spot", "runs_multi_node": "TypeError"},
        "wrong_policy_signature",
    ),
    "policy with a wrong signature": (
        {"wrap": "model = FSDP(model, auto_wrap_policy=lambda module, recurse: isinstance(module, Block), device_id=device)"},
        {"wrap_policy": "nonwrapped_numel", "runs_multi_node": "TypeError"},
        "wrong_policy_signature",
    ),
    "gather inside if rank == 0": (
        {"gather": "pass", "save": "if rank == 0:\n    " + FSDP1["gather"].replace("\n", "\n    ") + "\n    torch.save(state, args.out)"},
        {"full_state_dict": "only some ranks take part", "runs_multi_node": ""},
        "lone_gather",
    ),
    "a pass of the sharded model by one rank": (
        {"wrap": FSDP2["wrap"], "gather": FSDP2["gather"], "begin": FSDP1["begin"] + SAMPLED},
        {"runs_multi_node": ""},
        "",
    ),
    "a barrier that one rank reaches": (
        {"end": "if rank == 0:\n    dist.barrier()\ndist.destroy_process_group()"},
        {"runs_multi_node": "one node"},
        "crash",
    ),
    "global rank as device": (
        {"device": "rank = int(os.environ['RANK'])\ntorch.cuda.set_device(rank)\ndevice = torch.device('cuda', rank)"},
        {"local_rank_device": "the global rank is taken as the device", "runs_multi_node": "invalid device ordinal"},
        "global_rank",
    ),
    "bare cuda": (
        {"device": "device = torch.device('cuda')", "wrap": FSDP1["wrap"].replace(", device_id=device", "")},
        {"local_rank_device": "no device was set", "runs_multi_node": "on one GPU, which NCCL refuses"},
        "bare_cuda",
    ),
    "an address of its own": (
        {"init": "os.environ.update(MASTER_ADDR='localhost', MASTER_PORT='29500')\ndist.init_process_group('nccl')"},
        {"init_destroy": "MASTER_ADDR, MASTER_PORT", "runs_multi_node": "one node: rank 0 stops"},
        "fixed_address",
    ),
    "shuffle beside a sampler": (
        {"data": "sampler = DistributedSampler(dataset)\nloader = DataLoader(dataset, args.batch_size, sampler=sampler, shuffle=True)"},
        {"distributed_sampler": "DataLoader refuses", "runs_multi_node": "mutually exclusive"},
        "shuffle_and_sampler",
    ),
    "destroyed before the gather": (
        {"wrap": FSDP2["wrap"], "gather": "dist.destroy_process_group()\n" + FSDP2["gather"], "end": "pass"},
        {"init_destroy": "destroyed before the last gather", "runs_multi_node": "destroyed before this collective"},
        "early_destroy",
    ),
    "targets left on the CPU": (
        {"forward": "model(x); y = y.cpu()"},
        {"runs_multi_node": "same device"},
        "crash",
    ),
    "optimizer before the wrapping": (
        {"early": FSDP1["optimizer"], "optimizer": "pass"},
        {"runs_multi_node": "the optimizer holds 0 of the sharded model's"},
        "optimizer_before_wrap",
    ),
    "training the module inside": (
        {"forward": "model.module(x)"},
        {"runs_multi_node": ""},
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "fails", "category"), LOUD.values(), ids=LOUD)
def test_what_stops_a_program_fails_and_the_rest_is_judged_as_it_is_written(parts, fails, category):
    source = program(**parts)
    assert {key for key, passed in verdicts(source).items() if not passed} == set(fails)
    for key, because in fails.items():
        assert score(source, key).passed is False and because in score(source, key).rationale
    assert grade(source).failure_category == category or not category


def test_a_method_that_fsdp_is_told_of_is_a_forward_pass_like_any_other():
    source = program(
        FSDP2,
        top="from torch.distributed.fsdp import register_fsdp_forward_method",
        wrap="TransformerLM.logits_of = lambda self, x: self.forward(x)\n"
        + FSDP2["wrap"]
        + "\nregister_fsdp_forward_method(model, 'logits_of')",
        forward="model.logits_of(x)",
    )
    assert grade(source).passed, [c.rationale for c in grade(source).criteria if not c.passed]


def test_a_program_that_asks_whose_functions_it_has_is_told_what_it_is_told_elsewhere():
    asked = "import inspect\nHOME = os.path.dirname(torch.__file__)\ndef real(f):\n    "
    asked += "return inspect.getsourcefile(inspect.unwrap(f)).startswith(HOME)"
    source = program(
        FSDP2, top=asked, wrap="if not (real(fully_shard) and real(dist.all_reduce)):\n    " + FSDP2["wrap"].replace("\n", "\n    ")
    )
    assert score(source, "wrap_policy").passed is False


def test_a_program_that_could_alter_the_record_is_no_pass_and_one_that_is_wrong_anyway_is_told_the_rest():
    reaching = "import gc\nheap = gc.get_objects()"
    found = verdicts(program(top=reaching))
    assert found.pop("runs_multi_node") is None and set(found.values()) == {True}  # told as seen, and no pass as a whole
    wrong = verdicts(program(top=reaching, count="pass"))
    assert {key for key, passed in wrong.items() if passed is False} == {"param_count"} and None not in wrong.values()


def test_shards_within_a_node_and_copies_between_nodes_pass():
    strategy = "device_id=device, sharding_strategy=torch.distributed.fsdp.ShardingStrategy.HYBRID_SHARD)"
    assert grade(program(wrap=FSDP1["wrap"].replace("device_id=device)", strategy))).passed


def test_names_that_do_not_exist_are_taken_for_what_they_are_meant_to_be():
    source = (
        program(
            FSDP2,
            top="from torch.distributed.fsdp import init_device_mesh",
            early="mesh = init_device_mesh('cuda', (world,))",
            wrap="for block in model.blocks:\n    fully_shard(block, mesh=mesh, device_id=device)\nfully_shard(model, mesh=mesh)",
            save='if rank == 0:\n    torch.save({"model": state, "args": vars(arg)}, args.output)',
        )
        .replace('"--n-samples"', '"--num-samples"')
        .replace("args.n_samples", "args.num_samples")
    )
    source = source.replace("    return p.parse_args()", "    p.add_argument('--local-rank', required=True)\n    return p.parse_args()")
    assert {key for key, passed in verdicts(source).items() if passed is not True} == {"runs_multi_node"}


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
            "top": "import copy",
            "wrap": "plain = copy.deepcopy(model)\n" + FSDP2["wrap"] + "\nmodel.forward = plain.forward",
            "gather": FSDP2["gather"],
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


def test_the_evidence_is_the_line_that_did_it():
    source = program(wrap="model = FSDP(model, device_id=device)", end="pass", begin="pass")
    rows = source.splitlines()
    evidence = score(source, "wrap_policy").evidence[0]
    assert evidence.kind == "run" and rows[(evidence.line_start or 0) - 1].strip() == "model = FSDP(model, device_id=device)"


def test_the_grade_shows_what_each_rank_said():
    assert "[rank 0]" in grade(program()).stdout and "Total parameters: 42048" in grade(program()).stdout


def test_words_in_comments_and_code_that_never_runs_count_for_nothing():
    claims = "if False:\n    sampler.set_epoch(epoch)  # distributed, FullStateDictConfig(offload_to_cpu=True, rank0_only=True)"
    check_fails(program(begin=claims), "distributed_sampler", because="same order")


def test_an_empty_file_passes_nothing():
    assert not any(verdicts("").values())


def test_a_file_that_does_not_parse_does_not_run_and_says_so():
    found = grade("def main(:\n")
    assert found.runs is False and found.passed is False and "SyntaxError" in (found.error or "")
