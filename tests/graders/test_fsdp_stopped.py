"""FSDP scripts that stop at a mistake, or do not learn for it: it fails, and the rest is judged as it is written."""

from __future__ import annotations

import pytest

from tests.graders.fsdp_programs import FSDP1, FSDP2, grade, program, score, verdicts

SAMPLED = "\nif rank == 0 and epoch:\n    print(model(x).shape)"
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
        {**FSDP2, "begin": FSDP1["begin"] + SAMPLED},
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
        {**FSDP2, "gather": "dist.destroy_process_group()\n" + FSDP2["gather"], "end": "pass"},
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
