import argparse
import math
import os
import time
from functools import partial

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
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

class Trainer:
    def __init__(self, opt):
        self.opt = opt
        self.local_rank = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(self.local_rank)
        dist.init_process_group(backend="nccl")
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda", self.local_rank)
        self._data()
        self._model()

    def _data(self):
        data = make_dataset(self.opt)
        self.sampler = DistributedSampler(data, self.world, self.rank, seed=self.opt.seed)
        self.loader = DataLoader(data, self.opt.batch_size, sampler=self.sampler, drop_last=True)

    def _model(self):
        torch.manual_seed(self.opt.seed)
        net = TransformerLM(self.opt).to(self.device)
        self.say(f"Total parameters: {sum(p.numel() for p in net.parameters())}")
        policy = partial(transformer_auto_wrap_policy, transformer_layer_cls=Block)
        self.model = FullyShardedDataParallel(net, auto_wrap_policy=policy, device_id=self.local_rank)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.opt.lr)

    def say(self, text):
        if self.rank == 0:
            print(text, flush=True)

    def fit(self):
        for epoch in range(self.opt.epochs):
            self.sampler.set_epoch(epoch)
            t0, total = time.time(), torch.zeros((), device=self.device)
            for x, y in self.loader:
                total += self.step(x.to(self.device), y.to(self.device))
            dist.all_reduce(total)
            mean = total.item() / len(self.loader) / self.world
            self.say(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    def step(self, x, y):
        loss = F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.model.clip_grad_norm_(1.0)
        self.optimizer.step()
        return loss.detach()

    def save(self):
        config = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, config):
            weights = self.model.state_dict()
        if self.rank == 0:
            torch.save({"model": weights, "args": vars(self.opt)}, self.opt.out)
        self.say(f"saved {self.opt.out}")

    def close(self):
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    trainer = Trainer(get_options())
    trainer.fit()
    trainer.save()
    trainer.close()
