import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel as FSDP, StateDictType
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
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

opt = get_options()
LOCAL_RANK = int(os.environ["LOCAL_RANK"])
DEVICE = torch.device("cuda", LOCAL_RANK)


def log(*message):
    if dist.get_rank() == 0:
        print(*message, flush=True)


def train(model, optimizer, loader, sampler):
    for epoch in range(opt.epochs):
        sampler.set_epoch(epoch)
        started, loss_sum = time.time(), 0.0
        for x, y in loader:
            out = model(x.to(DEVICE))
            loss = F.cross_entropy(out.flatten(0, 1), y.to(DEVICE).flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            model.clip_grad_norm_(1.0)
            optimizer.step()
            loss_sum += loss.item()
        t = torch.tensor([loss_sum, len(loader)], device=DEVICE)
        dist.all_reduce(t)
        mean = (t[0] / t[1]).item()
        log(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - started:.1f}s)")


def save(model):
    with FSDP.state_dict_type(model, StateDictType.FULL_STATE_DICT,
                              FullStateDictConfig(offload_to_cpu=True, rank0_only=True)):
        state = model.state_dict()
    torch.save({"model": state, "args": vars(opt)}, opt.out)
    log(f"saved {opt.out}")


def main():
    torch.cuda.set_device(DEVICE)
    dist.init_process_group("nccl")
    torch.manual_seed(opt.seed)

    dataset = make_dataset(opt)
    sampler = DistributedSampler(dataset, seed=opt.seed)
    loader = DataLoader(dataset, batch_size=opt.batch_size, sampler=sampler, drop_last=True)

    model = TransformerLM(opt)
    log("Total parameters:", sum(p.numel() for p in model.parameters()))
    model = FSDP(model, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=opt.lr)

    train(model, optimizer, loader, sampler)
    save(model)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
