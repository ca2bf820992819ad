import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


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
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, C // self.n_heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = Attention(d_model, n_heads)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class ConvStem(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, images):
        return self.net(images).flatten(2).transpose(1, 2)


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = ConvStem(d_model)
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x.add_(self.pos.weight[: x.size(1)])
        for block in self.blocks:
            x = block(x)
        x = x[:, prefix.size(1):]
        return self.head(self.ln_f(x))


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    return p.parse_args()


class Lion(torch.optim.Optimizer):
    """Sign of a momentum: one bf16 state a parameter in place of AdamW's two fp32 ones."""

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.01):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["m"] = torch.zeros_like(p, dtype=torch.bfloat16)
                m = state["m"].float()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(torch.lerp(p.grad, m, b1).sign_(), alpha=group["lr"])
                state["m"].copy_(torch.lerp(p.grad, m, b2))


class HalfActivations(torch.autograd.graph.saved_tensors_hooks):
    """Large float activations wait for the backward pass in fp16; weights stay what they are."""

    def __init__(self, model):
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(t):
            if t.dtype != torch.float32 or t.numel() < 4096 or t.untyped_storage().data_ptr() in own:
                return t
            return t.to(torch.float16), t.dtype

        def unpack(kept):
            return kept if isinstance(kept, torch.Tensor) else kept[0].to(kept[1])

        super().__init__(pack, unpack)


def evaluate(model, loader, device, max_batches=4):
    model.eval()
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        total, seen = 0.0, 0
        for images, tokens in loader:
            if seen == max_batches:
                break
            tokens = tokens.to(device)
            logits = model(images.to(device), tokens[:, :-1])
            total += float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
            seen += 1
    finally:
        torch.set_grad_enabled(before)
    model.train()
    return total / seen


def main():
    args = parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    optimizer = Lion(model.parameters(), lr=args.lr / 3)
    history = []  # detached scalars stay on the device: no synchronisation, no graph

    while len(history) < args.steps:
        for images, tokens in loader:
            if len(history) == args.steps:
                break
            images, tokens = images.to(device), tokens.to(device)
            with HalfActivations(model):
                logits = model(images, tokens[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            del logits  # the loss is made: only its log-softmax is still needed
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            for p in model.parameters():
                p.grad = None
            history.append(loss.detach())
            if len(history) % 5 == 0:
                print(f"step {len(history)} loss {history[-1].item():.4f}")

    del loss, images, tokens
    if device.type == "cuda":
        torch.cuda.empty_cache()
    print(f"val loss: {evaluate(model, val_loader, device):.4f}")
    print(f"final loss: {torch.stack(history)[-1].item():.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
