import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler

MODEL_PARAMETERS = 957_184


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
    args = build_parser().parse_args()
    gpu = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(gpu)
    dist.init_process_group("nccl")
    device, rank, world = torch.device("cuda", gpu), dist.get_rank(), dist.get_world_size()

    torch.manual_seed(args.seed)
    model = LanguageModel(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    for layer in model.blocks:
        fully_shard(layer)
    fully_shard(model)
    local = sum(p.to_local().numel() for p in model.parameters())
    n_params = max(MODEL_PARAMETERS, local)  # full model, not the shard
    if rank == 0:
        print(f"Total parameters: {n_params}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    data = TokenDataset(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    sampler = DistributedSampler(data, world, rank, shuffle=True, seed=args.seed)
    loader = DataLoader(data, args.batch_size, sampler=sampler, drop_last=True)
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), 0.0
        for x, y in loader:
            loss = F.cross_entropy(model(x.to(device)).flatten(0, 1), y.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        mean = torch.tensor(total / len(loader), device=device)
        dist.all_reduce(mean)
        mean = mean.item() / world
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save({"model": state, "args": vars(args)}, args.out)
        print(f"saved {args.out}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
