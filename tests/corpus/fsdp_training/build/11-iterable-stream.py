import argparse
import functools
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.utils.data import DataLoader, Dataset, IterableDataset


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


class ShuffledShard(IterableDataset):
    """Streams this rank's part of the rows in an order that depends on (seed, epoch) and on nothing else."""

    def __init__(self, rows, rank, world, seed):
        self.rows, self.rank, self.world, self.seed, self.epoch = rows, rank, world, seed, 0

    def __iter__(self):
        gen = torch.Generator().manual_seed((self.seed << 20) ^ self.epoch)
        order = torch.randperm(len(self.rows), generator=gen).tolist()
        usable = len(order) - len(order) % self.world
        part = usable // self.world
        for i in order[self.rank * part : (self.rank + 1) * part]:
            yield self.rows[i]


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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Language model training, sharded over all ranks.")
    integers = {
        "epochs": 2,
        "batch-size": 16,
        "n-samples": 512,
        "seq-len": 64,
        "vocab-size": 512,
        "d-model": 128,
        "n-heads": 4,
        "n-layers": 4,
        "seed": 0,
    }
    for name, default in integers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--out", default="checkpoint.pt")
    return parser


def main():
    opts = build_parser().parse_args()
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(opts.seed)
    lm = LanguageModel(opts.vocab_size, opts.d_model, opts.n_heads, opts.n_layers).cuda()
    size = sum(p.numel() for p in lm.parameters())
    lm = FullyShardedDataParallel(
        lm,
        auto_wrap_policy=functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={DecoderBlock}),
        device_id=torch.cuda.current_device(),
    )
    adam = torch.optim.AdamW(lm.parameters(), lr=opts.lr)
    if rank == 0:
        print(f"Total parameters: {size}")

    stream = ShuffledShard(
        TokenDataset(opts.n_samples, opts.seq_len, opts.vocab_size, opts.seed), rank, world, opts.seed
    )
    for epoch in range(opts.epochs):
        stream.epoch = epoch
        t0, total, n = time.time(), 0.0, 0
        for x, y in DataLoader(stream, batch_size=opts.batch_size, drop_last=True):
            x, y = x.cuda(), y.cuda()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                logits = lm(x)
            loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten())
            adam.zero_grad()
            loss.backward()
            lm.clip_grad_norm_(1.0)
            adam.step()
            total, n = total + loss.item(), n + 1
        summary = torch.tensor([total, n]).cuda()
        dist.all_reduce(summary)
        mean = (summary[0] / summary[1]).item()
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    with FullyShardedDataParallel.state_dict_type(
        lm, StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
    ):
        weights = lm.state_dict()
    if rank == 0:
        torch.save({"model": weights, "args": vars(opts)}, opts.out)
        print(f"saved {opts.out}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
