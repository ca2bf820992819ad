import argparse
import math
import os
import tempfile
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard
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

INIT_FROM = os.environ.get("INIT_FROM")  # a checkpoint of an earlier run, e.g. on another number of GPUs


def log0(message):
    if dist.get_rank() == 0:
        print(message, flush=True)


def build(opt, device):
    torch.manual_seed(opt.seed)
    model = TransformerLM(opt)
    log0(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
    model.to(device)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    if INIT_FROM:
        weights = {}
        if dist.get_rank() == 0:
            weights = torch.load(INIT_FROM, map_location="cpu", weights_only=True)["model"]
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=options)
        log0(f"weights from {INIT_FROM}")
    return model


def atomic_save(obj, path):
    """Write beside the target and rename: a killed job leaves the old file or the new one, never half of one."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    with os.fdopen(fd, "wb") as f:
        torch.save(obj, f)
    os.replace(temporary, path)


def checkpoint(model, opt):
    # collective, so before any test of the rank
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        atomic_save({"model": state, "args": vars(opt)}, opt.out)
    dist.barrier()
    log0(f"saved {opt.out}")


def train(opt, device):
    model = build(opt, device)
    dataset = make_dataset(opt)
    sampler = DistributedSampler(dataset, shuffle=True, seed=opt.seed)
    loader = DataLoader(
        dataset, batch_size=opt.batch_size, sampler=sampler, drop_last=True, num_workers=2, persistent_workers=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=opt.lr)
    for epoch in range(opt.epochs):
        sampler.set_epoch(epoch)
        t0, total = time.time(), torch.zeros((), device=device)
        for x, y in loader:
            logits = model(x.to(device))
            loss = F.cross_entropy(logits.flatten(0, 1), y.to(device).flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        mean = total.item() / (len(loader) * dist.get_world_size())
        log0(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")
        checkpoint(model, opt)


def main():
    opt = get_options()
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", local_rank))
    train(opt, torch.device("cuda", local_rank))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
