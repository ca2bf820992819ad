"""
This training script runs on one or several nodes, sharded by FSDP2. Structure borrowed from nanoGPT.

$ torchrun --standalone --nproc_per_node=4 train.py --batch-size=32
$ torchrun --nproc_per_node=8 --nnodes=2 --node_rank=0 --master_addr=123.456.123.456 --master_port=1234 train.py
"""
import argparse
import math
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed import all_reduce, barrier, destroy_process_group, get_rank, get_world_size, init_process_group
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
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

def get_num_params(model, non_embedding=True):
    """
    Return the number of parameters in the model.
    For non-embedding count (default), the position embeddings get subtracted.
    """
    n_params = sum(p.numel() for p in model.parameters())
    if non_embedding:
        n_params -= model.pos.weight.numel()
    return n_params


def configure_optimizers(model, learning_rate, betas=(0.9, 0.95)):
    decay = [p for p in model.parameters() if p.dim() >= 2]
    nodecay = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": nodecay, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


config = get_options()
fsdp_local_rank = int(os.environ["LOCAL_RANK"])
device = f"cuda:{fsdp_local_rank}"
torch.cuda.set_device(device)
init_process_group(backend="nccl")
fsdp_rank, fsdp_world_size = get_rank(), get_world_size()
master_process = fsdp_rank == 0  # this process will do logging, checkpointing etc.
torch.manual_seed(config.seed)

# model
model = TransformerLM(config)
if master_process:
    print(f"Total parameters: {get_num_params(model)}")
model.to(device)
for block in model.blocks:
    fully_shard(block)
fully_shard(model)
optimizer = configure_optimizers(model, config.lr)

# data
dataset = make_dataset(config)
sampler = DistributedSampler(dataset, num_replicas=fsdp_world_size, rank=fsdp_rank, seed=config.seed)
loader = DataLoader(dataset, batch_size=config.batch_size, sampler=sampler, drop_last=True)

# training loop
for epoch in range(config.epochs):
    sampler.set_epoch(epoch)
    t0 = time.time()
    lossf = torch.zeros((), device=device)
    for X, Y in loader:
        logits = model(X.to(device))
        loss = F.cross_entropy(logits.flatten(0, 1), Y.to(device).flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # flush the gradients as soon as we can, no need for this memory anymore
        optimizer.zero_grad(set_to_none=True)
        lossf += loss.detach()
    all_reduce(lossf)
    mean = lossf.item() / (len(loader) * fsdp_world_size)
    if master_process:
        print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

checkpoint = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if master_process:
    torch.save({"model": checkpoint, "args": vars(config)}, config.out)
    print(f"saved {config.out}")
barrier()
destroy_process_group()
