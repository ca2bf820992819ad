"""Activations wait for their backward pass as int8 with one scale a row."""
import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import DataLoader, Dataset


N_HEADS = 4


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


class Int8Saved:
    """Only what is dense, float and no weight (or view of one) is quantised."""

    def __init__(self, model):
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.hooks = lambda: saved_tensors_hooks(self.pack, self.unpack)

    def pack(self, t):
        if t.dim() == 3 and t.size(1) == N_HEADS:       # what fused attention remembers of its softmax stays exact
            return t
        if not t.is_floating_point() or t.dim() < 3 or t.untyped_storage().data_ptr() in self.weights:
            return t
        amax = t.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12).float()
        return (t.float() * (127 / amax)).round_().to(torch.int8), amax / 127, t.dtype

    @staticmethod
    def unpack(packed):
        if torch.is_tensor(packed):
            return packed
        q, scale, dtype = packed
        return (q.float() * scale).to(dtype)


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def heads(self, t):
        return t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def forward(self, x):
        q, k, v = map(self.heads, self.qkv(self.ln1(x)).chunk(3, -1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=N_HEADS, n_layers=4, max_len=256):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1), nn.BatchNorm2d(d_model // 2)
        self.conv2 = nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1)
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f, self.head = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        h = self.bn(self.conv1(images)).relu_()
        prefix = self.conv2(h).relu_().flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    args = p.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=device.type == "cuda")
    saved = Int8Saved(model)

    def compute(images, tokens):
        logits = model(images.to(device), tokens[:, :-1].to(device))
        return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:].to(device))

    history = torch.empty(args.steps)
    step = 0
    while step < args.steps:
        for images, tokens in loader:
            if step == args.steps:
                break
            with saved.hooks():
                loss = compute(images, tokens)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history[step] = loss.detach()
            step += 1
            if step % 5 == 0:
                print(f"step {step} loss {history[step - 1]:.4f}")

    model.eval()
    with torch.inference_mode():
        val = [compute(images, tokens) for _, (images, tokens) in zip(range(4), val_loader)]
    print(f"val loss: {sum(val) / len(val):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
