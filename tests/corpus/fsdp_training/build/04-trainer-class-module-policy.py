import argparse
import math
import os
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import (
    BackwardPrefetch,
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecision,
    ShardingStrategy,
    StateDictType,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SyntheticTokens(Dataset):
    """Arithmetic sequences modulo the vocabulary, as in the single-GPU script."""

    def __init__(self, n_samples: int, seq_len: int, vocab_size: int, seed: int = 0) -> None:
        gen = torch.Generator().manual_seed(seed)
        first = torch.randint(0, vocab_size, (n_samples, 1), generator=gen)
        stride = torch.randint(1, 7, (n_samples, 1), generator=gen)
        self.data = (first + stride * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self) -> int:
        return self.data.size(0)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.data[index]
        return row[:-1], row[1:]


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Linear(4 * d_model, d_model),
        )

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_heads, width // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(
        self, vocab_size: int = 512, d_model: int = 128, n_heads: int = 4, n_layers: int = 4, max_len: int = 256
    ) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(tokens.size(1), device=tokens.device)
        x = self.tok(tokens) + self.pos(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


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


class Trainer:
    """Owns the sharded model, its data and its optimizer. The process group is the caller's."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        self.args = args
        self.device = device
        self.rank = dist.get_rank()
        self.sampler, self.loader = self._build_data()
        self.model = self._build_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=args.lr)

    def _build_data(self) -> tuple[DistributedSampler, DataLoader]:
        a = self.args
        dataset = SyntheticTokens(a.n_samples, a.seq_len, a.vocab_size, a.seed)
        sampler: DistributedSampler = DistributedSampler(dataset, shuffle=True, seed=a.seed, drop_last=True)
        return sampler, DataLoader(dataset, a.batch_size, sampler=sampler, drop_last=True, num_workers=0)

    def _build_model(self) -> nn.Module:
        a = self.args
        torch.manual_seed(a.seed)
        plain = TransformerLM(a.vocab_size, a.d_model, a.n_heads, a.n_layers)
        self.log(f"Total parameters: {sum(p.numel() for p in plain.parameters())}")
        bf16 = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, buffer_dtype=torch.bfloat16)
        return FullyShardedDataParallel(
            plain,
            auto_wrap_policy=ModuleWrapPolicy({Block}),
            mixed_precision=bf16,
            sharding_strategy=ShardingStrategy.SHARD_GRAD_OP,
            backward_prefetch=BackwardPrefetch.BACKWARD_PRE,
            device_id=self.device,
            sync_module_states=True,
        )

    def log(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)

    def step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = self.model(x.to(self.device))
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.to(self.device).flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.model.clip_grad_norm_(1.0)
        self.optimizer.step()
        return loss.detach()

    def fit(self) -> None:
        for epoch in range(self.args.epochs):
            self.sampler.set_epoch(epoch)
            started = time.time()
            losses = [self.step(x, y) for x, y in self.loader]
            mean = torch.stack(losses).mean()
            dist.all_reduce(mean, op=dist.ReduceOp.SUM)
            value = mean.item() / dist.get_world_size()
            self.log(f"epoch {epoch} loss {value:.4f} ppl {math.exp(value):.1f} ({time.time() - started:.1f}s)")

    def save(self) -> None:
        config = FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
        with FullyShardedDataParallel.state_dict_type(self.model, StateDictType.FULL_STATE_DICT, config):
            weights = self.model.state_dict()
            if self.rank == 0:
                torch.save({"model": weights, "args": vars(self.args)}, self.args.out)
        self.log(f"saved {self.args.out}")


def main() -> None:
    args = build_parser().parse_args()
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl")
    try:
        trainer = Trainer(args, torch.device(f"cuda:{local_rank}"))
        trainer.fit()
        trainer.save()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
