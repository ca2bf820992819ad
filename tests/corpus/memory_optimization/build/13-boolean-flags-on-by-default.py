import argparse
import contextlib

import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.utils.data import DataLoader, Dataset


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    onoff = argparse.BooleanOptionalAction
    p.add_argument("--amp", action=onoff, default=True, help="bf16 autocast")
    p.add_argument("--sdpa", action=onoff, default=True, help="fused attention")
    p.add_argument("--recompute", action=onoff, default=True, help="checkpoint every block")
    p.add_argument("--fused", action=onoff, default=True, help="fused AdamW on CUDA")
    p.add_argument("--channels-last", action=onoff, default=True)
    p.add_argument("--compile", action=onoff, default=False, help="slow start, so off unless asked for")
    p.add_argument("--offload", action=onoff, default=False, help="activations to pinned host memory")
    return p.parse_args()


class CaptionData(Dataset):
    def __init__(self, n=256, seq_len=33, vocab_size=2000, image_size=32):
        g = torch.Generator().manual_seed(0)
        self.images = torch.randn(n, 3, image_size, image_size, generator=g)
        first = torch.randint(0, vocab_size, (n, 1), generator=g)
        self.tokens = (first + torch.arange(seq_len)) % vocab_size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.tokens[i]


class Attention(nn.Module):
    def __init__(self, d_model, n_heads, fused):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)
        self.core = self.fused if fused else self.plain

    @staticmethod
    def fused(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    @staticmethod
    def plain(q, k, v):
        scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(mask, float("-inf")).softmax(dim=-1) @ v

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        return self.proj(self.core(q, k, v).transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, n_heads, fused, recompute):
        super().__init__()
        self.recompute = recompute
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = Attention(d_model, n_heads, fused)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def body(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))

    def forward(self, x):
        if self.recompute and self.training:
            return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
        return self.body(x)


class Captioner(nn.Module):
    def __init__(self, args, vocab_size=2000, n_heads=4, max_len=256):
        super().__init__()
        d = args.d_model
        self.stem = nn.Sequential(
            nn.Conv2d(3, d // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d // 2), nn.ReLU(),
            nn.Conv2d(d // 2, d, 3, stride=2, padding=1), nn.ReLU())
        self.tok = nn.Embedding(vocab_size, d)
        self.pos = nn.Embedding(max_len, d)
        self.blocks = nn.ModuleList(Block(d, n_heads, args.sdpa, args.recompute) for _ in range(args.n_layers))
        self.ln_f = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def main():
    args = parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(args).to(device).to(memory_format=layout)
    if args.compile:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True if args.fused and cuda else None)

    def loss_of(images, tokens):
        images, tokens = images.to(device, memory_format=layout), tokens.to(device)
        amp = torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp)
        offload = torch.autograd.graph.save_on_cpu(pin_memory=cuda) if args.offload else contextlib.nullcontext()
        with amp, offload:
            logits = model(images, tokens[:, :-1])
            return F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1))

    step, shown = 0, None
    while step < args.steps:
        for batch in loader:
            if step == args.steps:
                break
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(*batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            shown = loss.item()
            step += 1
            if step % 5 == 0:
                print(f"step {step} loss {shown:.4f}")

    model.eval()
    with torch.no_grad():
        val = [loss_of(*batch).item() for _, batch in zip(range(4), val_loader)]
    print(f"val loss: {sum(val) / len(val):.4f}")
    print(f"final loss: {shown:.4f}")
    if cuda:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
