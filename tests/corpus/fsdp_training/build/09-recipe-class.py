"""Pre-training recipe for a small decoder, FSDP2: torchrun --nnodes N --nproc_per_node M train.py"""
import argparse
import dataclasses
import logging
import math
import os
import sys
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.fsdp import fully_shard
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler

logger = logging.getLogger("recipe")


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

def shard_condition(name: str, module: nn.Module) -> bool:
    """True for `blocks.0`, `blocks.1`, ... and for nothing inside of them."""
    parts = name.split(".")
    return len(parts) == 2 and parts[0] == "blocks" and parts[1].isdigit()


def shard_model(model: nn.Module, conditions, reshard_after_forward: bool = True) -> int:
    sharded = 0
    for name, module in reversed(list(model.named_modules())):
        if any(condition(name, module) for condition in conditions):
            fully_shard(module, reshard_after_forward=reshard_after_forward)
            sharded += 1
    if not sharded:
        raise ValueError("no layer was sharded: check the conditions")
    fully_shard(model, reshard_after_forward=reshard_after_forward)
    return sharded


class PretrainRecipe:
    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(self.device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.is_rank_zero = self.rank == 0

    def setup(self) -> None:
        torch.manual_seed(self.cfg.seed)
        self.model = self._setup_model()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.cfg.lr, foreach=True)
        self.sampler, self.loader = self._setup_data()

    def _setup_model(self) -> nn.Module:
        cfg = self.cfg
        model = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers)
        if self.is_rank_zero:
            print(f"Total parameters: {sum(p.numel() for p in model.parameters())}")
        model.to(self.device)
        count = shard_model(model, [shard_condition])
        if self.is_rank_zero:
            logger.info("sharded %d layers over %d ranks", count, self.world_size)
        return model

    def _setup_data(self):
        cfg = self.cfg
        dataset = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
        sampler = DistributedSampler(dataset, self.world_size, self.rank, shuffle=True, seed=cfg.seed)
        batches = BatchSampler(sampler, cfg.batch_size, drop_last=True)
        return sampler, DataLoader(dataset, batch_sampler=batches)

    def train(self) -> None:
        for epoch in range(self.cfg.epochs):
            self.sampler.set_epoch(epoch)
            t0 = time.perf_counter()
            total = torch.zeros((), device=self.device)
            for x, y in self.loader:
                total += self._step(x.to(self.device), y.to(self.device))
            self._report(epoch, total / len(self.loader), time.perf_counter() - t0)

    def _step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), y.reshape(-1))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
        if hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()  # a collective: on all ranks, each step
        self.last_norm = norm
        self.optimizer.step()
        return loss.detach()

    def _report(self, epoch: int, mean: torch.Tensor, seconds: float) -> None:
        dist.all_reduce(mean)
        value = mean.item() / self.world_size
        if self.is_rank_zero:
            print(f"epoch {epoch} loss {value:.4f} ppl {math.exp(value):.1f} ({seconds:.1f}s)")
            logger.info("grad norm %.3f", self.last_norm.item())

    def save_checkpoint(self) -> None:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.model, options=options)
        if self.is_rank_zero:
            torch.save({"model": state, "args": dataclasses.asdict(self.cfg)}, self.cfg.out)
            print(f"saved {self.cfg.out}")
        dist.barrier()

    def cleanup(self) -> None:
        dist.destroy_process_group()


@record
def recipe_main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    cfg = Config.parse()
    dist.init_process_group(backend="nccl")
    recipe = PretrainRecipe(cfg)
    recipe.setup()
    recipe.train()
    recipe.save_checkpoint()
    recipe.cleanup()


if __name__ == "__main__":
    recipe_main()
