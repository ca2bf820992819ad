import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
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
        x = x + checkpoint(self.mix, x, use_reentrant=False)
        return x + self.mlp(self.ln2(x))

    def mix(self, x):
        return self.attn(self.ln1(x))


class ConvStem(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(),
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

    def features(self, images, tokens):
        prefix = self.stem(images)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        return x[:, prefix.size(1):]


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    return p.parse_args()


CONFIG = {
    "dtype": torch.bfloat16,
    "slice": 96,
    "optimizer": {"class": torch.optim.SGD, "momentum": 0.9, "lr_factor": 30},
    "reports": 5,
}


def head_sum(model, hidden, targets):
    logits = model.head(model.ln_f(hidden)).float()
    return F.cross_entropy(logits, targets, reduction="sum")


def caption_loss(model, images, tokens, cfg):
    hidden = model.features(images.to(cfg["dtype"]), tokens[:, :-1]).flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    total = hidden.new_zeros((), dtype=torch.float32)
    for h, t in zip(hidden.split(cfg["slice"]), targets.split(cfg["slice"])):
        total = total + checkpoint(head_sum, model, h, t, use_reentrant=False)
    return total / targets.numel()


def main():
    args, cfg = parse_args(), CONFIG
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = {
        "train": DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True),
        "val": DataLoader(CaptionData(64), batch_size=args.batch_size),
    }
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device=device, dtype=cfg["dtype"])
    opt = cfg["optimizer"]
    optimizer = opt["class"](model.parameters(), lr=args.lr * opt["lr_factor"], momentum=opt["momentum"])
    state = {"step": 0, "losses": []}

    while state["step"] < args.steps:
        for images, tokens in data["train"]:
            if state["step"] == args.steps:
                break
            images, tokens = images.to(device), tokens.to(device)
            with torch.autograd.graph.save_on_cpu(pin_memory=device.type == "cuda"):
                loss = caption_loss(model, images, tokens, cfg)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            state["losses"].append(loss.item())
            state["step"] += 1
            if state["step"] % cfg["reports"] == 0:
                print(f"step {state['step']} loss {state['losses'][-1]:.4f}")

    model.eval()
    val = []
    with torch.inference_mode():
        for i, (images, tokens) in enumerate(data["val"]):
            if i == 4:
                break
            val.append(caption_loss(model, images.to(device), tokens.to(device), cfg).item())
    print(f"val loss: {sum(val) / len(val):.4f}")
    print(f"final loss: {state['losses'][-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
