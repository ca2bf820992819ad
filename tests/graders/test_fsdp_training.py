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
    assert grade(program(FSDP2, optimizer=FSDP1["optimizer"])).passed


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


def test_tools_of_a_gpu_a_group_of_hosts_blocks_without_a_list_and_options_of_a_class_change_nothing():
    source = program(
        FSDP2,
        top="class Config:\n    rate = 1",
        early="dice = torch.Generator(device='cuda').manual_seed(1)\nhosts = dist.new_group(backend='gloo')\n"
        "dist.monitored_barrier(hosts)\ndist.all_reduce(torch.ones(1), group=hosts)\n"
        "assert (dist.get_backend(), dist.get_backend(hosts)) == ('nccl', 'gloo')",
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
        "optimizers = [torch.optim.SGD(part, lr=args.lr) for part in parts]",
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


def test_a_program_that_could_alter_the_record_is_no_pass_and_one_that_is_wrong_anyway_is_told_the_rest():
    reaching = "import gc\nheap = gc.get_objects()"
    found = verdicts(program(top=reaching))
    assert found.pop("runs_multi_node") is None and set(found.values()) == {True}  # told as seen, and no pass as a whole
    wrong = verdicts(program(top=reaching, count="pass"))
    assert {key for key, passed in wrong.items() if passed is False} == {"param_count"} and None not in wrong.values()


def test_shards_within_a_node_and_copies_between_nodes_pass():
    strategy = "device_id=device, sharding_strategy=torch.distributed.fsdp.ShardingStrategy.HYBRID_SHARD)"
    assert grade(program(wrap=FSDP1["wrap"].replace("device_id=device)", strategy))).passed


def test_the_evidence_is_the_line_that_did_it():
    source = program(**{part: code for part, code, _ in QUIET[0].values()})
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
