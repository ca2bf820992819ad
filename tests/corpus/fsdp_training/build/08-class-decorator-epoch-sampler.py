import argparse
import math
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader, Dataset, Sampler

UNITS = []


def sharding_unit(cls):
    """Class decorator: instances of `cls` become FSDP units of their own."""
    UNITS.append(cls)
    return cls


class SyntheticTokens(Dataset):
    def __init__(self, n_samples, seq_len, vocab_size, seed=0):
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self):
        return self.data.size(0)

    def __getitem__(self, i):
        row = self.data[i]
        return row[:-1], row[1:]


@sharding_unit
class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size=512, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class EpochShuffle(Sampler):
    """Indices of this rank. Each pass over the sampler is a new epoch with a new permutation, the same on all ranks."""

    def __init__(self, size, rank, world, seed):
        self.size, self.rank, self.world, self.seed = size, rank, world, seed
        self.passes = 0

    def __len__(self):
        return self.size // self.world

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.passes)
        self.passes += 1
        order = torch.randperm(self.size, generator=generator)
        return iter(order[: len(self) * self.world].view(-1, self.world)[:, self.rank].tolist())


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--n-samples", type=int, default=512)
    p.add_argument("--seq-len", type=int, default=64)
    p.add_argument("--vocab-size", type=int, default=512)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-heads", type=int, default=4)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=str, default="checkpoint.pt")
    return p.parse_args()


def shard_units(model):
    bf16 = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    for module in model.modules():
        if isinstance(module, tuple(UNITS)):
            fully_shard(module, mp_policy=MixedPrecisionPolicy(**bf16))
    fully_shard(model, mp_policy=MixedPrecisionPolicy(**bf16, output_dtype=torch.float32))
    assert isinstance(model, FSDPModule)
    return model


def epochs(args, model, optimizer, loader, device):
    """Trains, and yields (epoch, mean loss over all ranks, seconds)."""
    for epoch in range(args.epochs):
        start, losses = time.perf_counter(), []
        for batch in loader:
            x, y = (t.to(device) for t in batch)
            loss = F.cross_entropy(model(x).transpose(1, 2), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        mean = torch.stack(losses).mean()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        yield epoch, mean.item(), time.perf_counter() - start


def main():
    args = parse_args()
    device = torch.device(f"cuda:{dist.get_node_local_rank()}")
    torch.cuda.set_device(device)
    dist.init_process_group("cuda:nccl,cpu:gloo")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(args.seed)
    with device:
        model = shard_units(TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True)
    if rank == 0:
        # The parameters are DTensors by now, and their numel() is that of the whole tensor.
        print(f"Total parameters: {sum(p.numel() for p in model.parameters())}", flush=True)

    data = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    loader = DataLoader(data, args.batch_size, sampler=EpochShuffle(len(data), rank, world, args.seed))
    for epoch, mean, seconds in epochs(args, model, optimizer, loader, device):
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({seconds:.1f}s)", flush=True)

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save({"model": weights, "args": vars(args)}, args.out)
        print(f"saved {args.out}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
