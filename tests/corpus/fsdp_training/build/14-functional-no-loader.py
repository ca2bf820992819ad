import argparse, math, os, time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Dataset


class SyntheticTokens(Dataset):
    def __init__(self, n_samples, seq_len, vocab_size, seed=0):
        g = torch.Generator().manual_seed(seed)
        start = torch.randint(0, vocab_size, (n_samples, 1), generator=g)
        step = torch.randint(1, 7, (n_samples, 1), generator=g)
        self.data = (start + step * torch.arange(seq_len + 1)) % vocab_size

    def __len__(self):
        return self.data.size(0)

    def __getitem__(self, i):
        row = self.data[i]
        return row[:-1], row[1:]


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1 = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln2(x))


class TransformerLM(nn.Module):
    def __init__(self, vocab_size=512, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, tokens):
        x = self.tok(tokens) + self.pos(torch.arange(tokens.size(1), device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=2)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--n-samples", type=int, default=512)
    p.add_argument("--seq-len", type=int, default=64)
    p.add_argument("--vocab-size", type=int, default=512)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-heads", type=int, default=4)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=str, default="checkpoint.pt")
    return p.parse_args()


def epoch_batches(dataset, epoch, args, device):
    """One permutation per epoch, equal on all ranks; rank r takes entries r, r + world, r + 2 * world, ..."""
    rank, world = dist.get_rank(), dist.get_world_size()
    g = torch.Generator().manual_seed(args.seed + 1000 * epoch)
    mine = torch.randperm(len(dataset), generator=g)[rank::world]
    per_rank = len(dataset) // world
    for i in range(0, per_rank - args.batch_size + 1, args.batch_size):
        rows = dataset.data[mine[i : i + args.batch_size]].to(device)
        yield rows[:, :-1], rows[:, 1:]


def shard(model):
    for m in model.modules():
        if isinstance(m, Block):
            fully_shard(m)
    return fully_shard(model)


def train_epoch(model, optimizer, batches):
    losses = []
    for x, y in batches:
        logits = model(x)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    mean = torch.stack(losses).mean()
    dist.all_reduce(mean)
    return mean.item() / dist.get_world_size()


def full_weights(model):
    return get_model_state_dict(model, options=StateDictOptions(cpu_offload=True, full_state_dict=True))


def main(args):
    local_rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local_rank)
    device = torch.device(f"cuda:{local_rank}")
    dist.init_process_group("nccl")
    master = dist.get_rank() == 0

    dataset = SyntheticTokens(args.n_samples, args.seq_len, args.vocab_size, args.seed)
    torch.manual_seed(args.seed)
    model = TransformerLM(args.vocab_size, args.d_model, args.n_heads, args.n_layers).to(device)
    count = sum(map(torch.Tensor.numel, model.parameters()))
    model = shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    if master:
        print("Total parameters:", count)
    for epoch in range(args.epochs):
        t0 = time.time()
        mean = train_epoch(model, optimizer, epoch_batches(dataset, epoch, args, device))
        if master:
            print(f"epoch {epoch} loss {mean:.4f} ppl {math.exp(mean):.1f} ({time.time() - t0:.1f}s)")

    weights = full_weights(model)
    if master:
        torch.save({"model": weights, "args": vars(args)}, args.out)
        print("saved", args.out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(parse_args())
