"""FSDP2 version of the starter. Everything that is not the training step is a callback."""
import argparse
import dataclasses
import math
import os
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.data import DataLoader, Dataset, DistributedSampler


@dataclass(frozen=True)
class Config:
    epochs: int = 2
    batch_size: int = 16
    n_samples: int = 512
    seq_len: int = 64
    vocab_size: int = 512
    d_model: int = 128
    n_heads: int = 4
    n_layers: int = 4
    lr: float = 3e-4
    seed: int = 0
    out: str = "checkpoint.pt"

    @classmethod
    def parse(cls) -> "Config":
        parser = argparse.ArgumentParser(description=__doc__)
        for f in dataclasses.fields(cls):
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=f.default)
        return cls(**vars(parser.parse_args()))


class SyntheticTokens(Dataset):
    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return self.data.size(0)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.data[i]
        return row[:-1], row[1:]


class DecoderLayer(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = (z.view(b, t, self.n_heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int, d_model: int, n_heads: int, n_layers: int, max_len: int = 256) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([DecoderLayer(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for layer in self.blocks:
            x = layer(x)
        return self.head(self.ln_f(x))

class Callback:
    """Hooks run on every rank; a hook that touches the console or the disk asks `loop.chief` itself."""

    def on_fit_start(self, loop): ...

    def on_epoch_start(self, loop): ...

    def on_epoch_end(self, loop): ...

    def on_fit_end(self, loop): ...


class Reshuffle(Callback):
    def on_epoch_start(self, loop):
        loop.loader.sampler.set_epoch(loop.epoch)


class ModelSummary(Callback):
    def on_fit_start(self, loop):
        assert isinstance(loop.model, FSDPModule)
        total = sum(p.numel() for p in loop.model.parameters())  # DTensors: global shapes
        if loop.chief:
            print(f"Total parameters: {total}")


class LossLine(Callback):
    def on_epoch_start(self, loop):
        self.began = time.monotonic()

    def on_epoch_end(self, loop):
        mean = torch.stack(loop.losses).mean()
        dist.all_reduce(mean, op=dist.ReduceOp.AVG)
        if loop.chief:
            took = time.monotonic() - self.began
            print(f"epoch {loop.epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({took:.1f}s)")


class FullCheckpoint(Callback):
    def __init__(self, path, extra):
        self.path, self.extra = path, extra

    def on_fit_end(self, loop):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(loop.model, options=options)
        if loop.chief:
            torch.save({"model": weights, "args": self.extra}, self.path)
            print(f"saved {self.path}")
        dist.barrier()


class Loop:
    def __init__(self, model, optimizer, loader, device, callbacks):
        self.model, self.optimizer, self.loader, self.device = model, optimizer, loader, device
        self.callbacks = callbacks
        self.chief = dist.get_rank() == 0
        self.epoch, self.losses = 0, []

    def fire(self, event):
        for callback in self.callbacks:
            getattr(callback, event)(self)

    def step(self, x, y):
        loss = F.cross_entropy(self.model(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def fit(self, epochs):
        self.fire("on_fit_start")
        for self.epoch in range(epochs):
            self.losses = []
            self.fire("on_epoch_start")
            for x, y in self.loader:
                self.losses.append(self.step(x.to(self.device), y.to(self.device)))
            self.fire("on_epoch_end")
        self.fire("on_fit_end")


def main() -> None:
    cfg = Config.parse()
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    device = torch.device("cuda", local_rank)
    dist.init_process_group("nccl", device_id=device)

    torch.manual_seed(cfg.seed)
    model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers).to(device)
    for layer in model.blocks:
        fully_shard(layer)
    fully_shard(model)

    data = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
    loader = DataLoader(data, cfg.batch_size, sampler=DistributedSampler(data, seed=cfg.seed), drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)

    callbacks = [Reshuffle(), ModelSummary(), LossLine(), FullCheckpoint(cfg.out, dataclasses.asdict(cfg))]
    Loop(model, optimizer, loader, device, callbacks).fit(cfg.epochs)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
