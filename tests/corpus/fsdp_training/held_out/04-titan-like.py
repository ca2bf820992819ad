from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.data import DataLoader, DistributedSampler


def synthetic_rows(n_samples, seq_len, vocab_size, seed=0):
    """Arithmetic sequences modulo the vocabulary, as in the single-GPU script."""
    gen = torch.Generator().manual_seed(seed)
    start = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
    step = torch.randint(1, 7, (n_samples, 1), generator=gen)
    return (start + step * torch.arange(seq_len + 1)) % vocab_size


class NextTokenDataset(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return row[:-1], row[1:]


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, time_steps, width = x.shape
        q, k, v = (
            part.view(batch, time_steps, self.n_heads, width // self.n_heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, time_steps, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads) for _ in range(n_layers)])
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.ln_f(hidden))


@dataclasses.dataclass
class JobConfig:
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
    def from_cli(cls) -> JobConfig:
        parser = argparse.ArgumentParser()
        for field in dataclasses.fields(cls):
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
        return cls(**vars(parser.parse_args()))


@dataclasses.dataclass(frozen=True)
class ParallelDims:
    dp_shard: int

    def build_mesh(self) -> DeviceMesh:
        return init_device_mesh("cuda", (self.dp_shard,), mesh_dim_names=("dp_shard",))


def parallelize_lm(model: TransformerLM, mesh: DeviceMesh) -> TransformerLM:
    config = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)}
    last = len(model.blocks) - 1
    for i, block in enumerate(model.blocks):
        # no point in freeing the last block: its backward comes first
        fully_shard(block, **config, reshard_after_forward=i < last)
    fully_shard(model, **config)
    for current, following in zip(model.blocks, model.blocks[1:]):
        current.set_modules_to_forward_prefetch([following])
        following.set_modules_to_backward_prefetch([current])
    return model


class TrainState:
    step = 0
    tokens = 0


class Trainer:
    def __init__(self, job: JobConfig) -> None:
        self.job = job
        self.device = torch.device(f"cuda:{int(os.environ['LOCAL_RANK'])}")
        torch.cuda.set_device(self.device)
        dist.init_process_group(backend="nccl")
        self.mesh = ParallelDims(dist.get_world_size()).build_mesh()
        self.dp_rank, self.dp_degree = self.mesh.get_local_rank("dp_shard"), self.mesh.size()
        torch.manual_seed(job.seed)
        self.model = TransformerLM(job.vocab_size, job.d_model, job.n_heads, job.n_layers).to(self.device)
        parallelize_lm(self.model, self.mesh)
        # DTensor.numel() is the size of the whole tensor
        self.log(f"Total parameters: {sum(p.numel() for p in self.model.parameters())}")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=job.lr, foreach=True)
        self.dataset = NextTokenDataset(synthetic_rows(job.n_samples, job.seq_len, job.vocab_size, job.seed))
        self.sampler = DistributedSampler(self.dataset, self.dp_degree, self.dp_rank, shuffle=True, seed=job.seed)
        self.loader = DataLoader(self.dataset, job.batch_size, sampler=self.sampler, drop_last=True)
        self.state = TrainState()

    def log(self, message: str) -> None:
        if dist.get_rank() == 0:
            print(message, flush=True)

    def train_step(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.state.step += 1
        self.state.tokens += tokens.numel()
        return loss.detach()

    def train(self) -> None:
        for epoch in range(self.job.epochs):
            self.sampler.set_epoch(epoch)
            began, losses = time.perf_counter(), []
            for tokens, labels in self.loader:
                losses.append(self.train_step(tokens.to(self.device), labels.to(self.device)))
            mean = torch.stack(losses).mean()
            dist.all_reduce(mean, op=dist.ReduceOp.SUM, group=self.mesh.get_group())
            mean = mean.item() / self.dp_degree
            self.log(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.perf_counter() - began:.1f}s)")

    def save(self) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options)
        if dist.get_rank() == 0:
            torch.save({"model": weights, "args": dataclasses.asdict(self.job)}, self.job.out)
        self.log(f"saved {self.job.out}")

    def close(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    trainer = Trainer(JobConfig.from_cli())
    trainer.train()
    trainer.save()
    trainer.close()


if __name__ == "__main__":
    main()
