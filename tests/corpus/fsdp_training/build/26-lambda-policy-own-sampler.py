import argparse
import contextlib
import functools
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import StateDictType
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.utils.data import DataLoader, Dataset, Sampler


class TokenDataset(Dataset):
    def __init__(self, n, length, vocab, seed=0):
        rng = torch.Generator().manual_seed(seed)
        a = torch.randint(0, vocab, (n, 1), generator=rng)
        d = torch.randint(1, 7, (n, 1), generator=rng)
        self.rows = (a + d * torch.arange(length + 1)) % vocab

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i, :-1], self.rows[i, 1:]


class EpochShard(Sampler):
    """Every rank draws the same permutation for an epoch and keeps each world-th entry of it."""

    def __init__(self, size, rank, world, seed):
        self.size, self.rank, self.world, self.seed = size, rank, world, seed
        self.epoch = 0

    def __len__(self):
        return self.size // self.world

    def __iter__(self):
        g = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(self.size, generator=g)[: len(self) * self.world]
        return iter(order[self.rank :: self.world].tolist())


class DecoderBlock(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.heads, -1).transpose(1, 2) for z in self.qkv(self.ln1(x)).chunk(3, dim=-1))
        att = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, c)
        x = x + self.proj(att)
        return x + self.mlp(self.ln2(x))


class LanguageModel(nn.Module):
    def __init__(self, vocab, dim, heads, layers, max_len=256):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(max_len, dim)
        self.blocks = nn.ModuleList([DecoderBlock(dim, heads) for _ in range(layers)])
        self.ln_f, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab, bias=False)

    def forward(self, tokens):
        h = self.tok(tokens) + self.pos.weight[: tokens.size(1)]
        for layer in self.blocks:
            h = layer(h)
        return self.head(self.ln_f(h))


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


@contextlib.contextmanager
def distributed():
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group(backend="nccl", init_method="env://")
    try:
        yield torch.device("cuda", local_rank)
    finally:
        dist.destroy_process_group()


def run_epoch(model, loader, optimizer, device):
    total, steps = torch.zeros((), device=device), 0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        out = model(x)
        loss = F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        model.clip_grad_norm_(1.0)
        optimizer.step()
        total += loss.detach()
        steps += 1
    total /= max(steps, 1)
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def main():
    args = parse_args()
    with distributed() as device:
        rank, world = dist.get_rank(), dist.get_world_size()
        say = print if rank == 0 else (lambda *a, **k: None)

        data = TokenDataset(args.n_samples, args.seq_len, args.vocab_size, args.seed)
        shard = EpochShard(len(data), rank, world, args.seed)
        loader = DataLoader(data, batch_size=args.batch_size, sampler=shard, drop_last=True)

        torch.manual_seed(args.seed)
        net = LanguageModel(args.vocab_size, args.d_model, args.n_heads, args.n_layers)
        say(f"Total parameters: {sum(w.numel() for w in net.parameters())}")

        is_block = functools.partial(lambda_auto_wrap_policy, lambda_fn=lambda m: isinstance(m, DecoderBlock))
        net = FSDP(net.to(device), auto_wrap_policy=is_block, device_id=device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr)

        for epoch in range(args.epochs):
            shard.epoch = epoch
            t0 = time.time()
            mean = run_epoch(net, loader, optimizer, device)
            say(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

        with FSDP.state_dict_type(net, StateDictType.FULL_STATE_DICT, FullStateDictConfig(True, True)):
            state = net.state_dict()
        if rank == 0:
            torch.save({"model": state, "args": vars(args)}, args.out)
        say(f"saved {args.out}")


if __name__ == "__main__":
    main()
