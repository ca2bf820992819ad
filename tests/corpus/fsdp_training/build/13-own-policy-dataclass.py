import argparse
import math
import time
from dataclasses import asdict, dataclass, fields

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.utils.data import DataLoader, Dataset, DistributedSampler




@dataclass
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
    def from_cli(cls):
        parser = argparse.ArgumentParser()
        for field in fields(cls):
            parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
        return cls(**vars(parser.parse_args()))


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


def blocks_are_units(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Auto wrap policy. FSDP first asks whether to walk into a module, then whether to wrap it."""
    return True if recurse else type(module) is Block


def total_parameters(cfg: Config) -> int:
    with torch.device("meta"):
        skeleton = TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers)
    return sum(p.numel() for p in skeleton.parameters())


def train(cfg: Config, device: torch.device) -> None:
    lead = dist.get_rank() == 0
    if lead:
        print(f"Total parameters: {total_parameters(cfg)}")

    torch.manual_seed(cfg.seed)
    model = FullyShardedDataParallel(
        TransformerLM(cfg.vocab_size, cfg.d_model, cfg.n_heads, cfg.n_layers),
        auto_wrap_policy=blocks_are_units,
        device_id=device,
    )
    FullyShardedDataParallel.set_state_dict_type(
        model, StateDictType.FULL_STATE_DICT, FullStateDictConfig(offload_to_cpu=True, rank0_only=True)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)

    data = SyntheticTokens(cfg.n_samples, cfg.seq_len, cfg.vocab_size, cfg.seed)
    sampler: DistributedSampler = DistributedSampler(data, seed=cfg.seed)
    loader = DataLoader(data, batch_size=cfg.batch_size, sampler=sampler, drop_last=True)

    for epoch in range(cfg.epochs):
        sampler.set_epoch(epoch)
        start, running = time.perf_counter(), torch.zeros(1, device=device)
        for inputs, targets in loader:
            logits = model(inputs.to(device))
            loss = F.cross_entropy(logits.transpose(1, 2), targets.to(device))
            loss.backward()
            model.clip_grad_norm_(1.0)
            optimizer.step()
            optimizer.zero_grad()
            running += loss.detach()
        dist.all_reduce(running)
        mean = running.item() / (len(loader) * dist.get_world_size())
        if lead:
            seconds = time.perf_counter() - start
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({seconds:.1f}s)")

    weights = model.state_dict()
    if lead:
        torch.save({"model": weights, "args": asdict(cfg)}, cfg.out)
        print(f"saved {cfg.out}")


def main() -> None:
    cfg = Config.from_cli()
    dist.init_process_group(backend="cpu:gloo,cuda:nccl")
    gpu = dist.get_node_local_rank()
    torch.cuda.set_device(gpu)
    try:
        train(cfg, torch.device("cuda", gpu))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
