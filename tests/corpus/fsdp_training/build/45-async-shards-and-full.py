import argparse
import math
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def synthetic_tokens(n_samples, seq_len, vocab_size, seed):
    g = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
    step = torch.randint(1, 7, (n_samples, 1), generator=g)
    data = (start + step * torch.arange(seq_len + 1)) % vocab_size
    return TensorDataset(data[:, :-1].contiguous(), data[:, 1:].contiguous())


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Linear(4 * d_model, d_model),
        )

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


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
    p.add_argument("--keep-shards", metavar="DIR", help="also keep a sharded checkpoint there, for a later FSDP run")
    return p.parse_args()


@contextmanager
def distributed(device):
    torch.cuda.set_device(device)
    # async_save talks over gloo while nccl trains
    dist.init_process_group("cpu:gloo,cuda:nccl")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def shard_blocks(module):
    if isinstance(module, Block):
        fully_shard(module)


def main():
    args = parse_args()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    with ExitStack() as stack:
        rank, world = stack.enter_context(distributed(device))
        torch.manual_seed(args.seed)
        model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
        n_params = sum(p.numel() for p in model.parameters())
        model.apply(shard_blocks)
        fully_shard(model)
        if rank == 0:
            print(f"Total parameters: {n_params}")

        data = synthetic_tokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
        sampler = DistributedSampler(data, world, rank, shuffle=True, seed=args.seed, drop_last=True)
        loader = DataLoader(data, args.batch_size, sampler=sampler, drop_last=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
        for epoch in range(args.epochs):
            sampler.set_epoch(epoch)
            t0, total = time.time(), 0.0
            for x, y in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten())
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.item()
            mean = torch.tensor(total / len(loader), device=device)
            dist.all_reduce(mean)
            if rank == 0:
                mean = mean.item() / world
                print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

        pending = None
        if args.keep_shards:
            pending = dcp.async_save({"model": get_model_state_dict(model)}, checkpoint_id=args.keep_shards)
        full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            folder = os.path.dirname(os.path.abspath(args.out))
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
                torch.save({"model": full, "args": vars(args)}, part)
            os.replace(part.name, args.out)
            print(f"saved {args.out}")
        if pending is not None:
            pending.result()
        dist.barrier()


if __name__ == "__main__":
    main()
