import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


OPTIONS = dict(epochs=2, batch_size=16, n_samples=512, seq_len=64, vocab_size=512, d_model=128, n_heads=4,
               n_layers=4, lr=3e-4, seed=0, out="checkpoint.pt")


def get_options():
    ap = argparse.ArgumentParser()
    for key, default in OPTIONS.items():
        ap.add_argument("--" + key.replace("_", "-"), type=type(default), default=default)
    return ap.parse_args()


def make_dataset(opt):
    gen = torch.Generator().manual_seed(opt.seed)
    start = torch.randint(0, opt.vocab_size, (opt.n_samples, 1), generator=gen)
    step = torch.randint(1, 7, (opt.n_samples, 1), generator=gen)
    rows = (start + step * torch.arange(opt.seq_len + 1)) % opt.vocab_size
    return TensorDataset(rows[:, :-1], rows[:, 1:])


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)
        self.ln2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))

    def forward(self, x):
        n, t, d = x.shape
        qkv = self.qkv(self.ln1(x)).unflatten(-1, (3, self.heads, d // self.heads)).permute(2, 0, 3, 1, 4)
        att = F.scaled_dot_product_attention(*qkv.unbind(0), is_causal=True)
        x = x + self.proj(att.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, opt, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(opt.vocab_size, opt.d_model)
        self.pos = nn.Embedding(max_len, opt.d_model)
        self.blocks = nn.ModuleList()
        for _ in range(opt.n_layers):
            self.blocks.append(Block(opt.d_model, opt.n_heads))
        self.ln_f = nn.LayerNorm(opt.d_model)
        self.head = nn.Linear(opt.d_model, opt.vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))

class LanguageModel(TransformerLM):
    def training_loss(self, tokens, targets):
        return F.cross_entropy(self.forward(tokens).flatten(0, 1), targets.flatten())


def shard(model, world_size):
    mesh = init_device_mesh("cuda", (world_size,), mesh_dim_names=("fsdp",))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    # The last norm and the head are used one after the other, at the very end: one group, kept unsharded for backward.
    fully_shard([model.ln_f, model.head], mesh=mesh, reshard_after_forward=False)
    fully_shard(model, mesh=mesh)
    # training_loss is what we call, so that is what must trigger the all-gathers.
    register_fsdp_forward_method(model, "training_loss")
    return model


def average(value, count, device):
    pair = torch.tensor([value, count], dtype=torch.float64, device=device)
    dist.all_reduce(pair)
    return (pair[0] / pair[1]).item()


def main():
    opt = get_options()
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device(f"cuda:{local_rank}")
    torch.cuda.set_device(device)
    dist.init_process_group(backend="nccl")
    rank, world_size = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(opt.seed)
    model = LanguageModel(opt)
    if rank == 0:
        print(f"Total parameters: {sum(p.numel() for p in model.parameters())}", flush=True)
    model = shard(model.to(device), world_size)

    dataset = make_dataset(opt)
    sampler = DistributedSampler(dataset, world_size, rank, shuffle=True, seed=opt.seed)
    loader = DataLoader(dataset, opt.batch_size, sampler=sampler, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=opt.lr)

    for epoch in range(opt.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), 0.0
        for x, y in loader:
            loss = model.training_loss(x.to(device), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        mean = average(total, len(loader), device)
        if rank == 0:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)", flush=True)

    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        torch.save({"model": full, "args": vars(opt)}, opt.out)
        print(f"saved {opt.out}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
