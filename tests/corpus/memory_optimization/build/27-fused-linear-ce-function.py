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


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear head. The gradient is made slice by slice in forward; logits never exist at once."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, rows):
        grad_h, grad_w, grad_b = torch.empty_like(hidden), torch.zeros_like(weight), torch.zeros_like(bias)
        total = hidden.new_zeros((), dtype=torch.float32)
        n = targets.numel()
        for a in range(0, n, rows):
            h, y = hidden[a:a + rows], targets[a:a + rows]
            logits = torch.addmm(bias, h, weight.t()).float()
            lse = logits.logsumexp(-1, keepdim=True)
            total += (lse.squeeze(-1) - logits.gather(1, y[:, None]).squeeze(-1)).sum()
            p = logits.sub_(lse).exp_()
            p[torch.arange(len(y), device=y.device), y] -= 1
            p = p.div_(n).to(weight.dtype)
            grad_h[a:a + rows] = p @ weight
            grad_w.addmm_(p.t(), h)
            grad_b += p.sum(0)
        ctx.save_for_backward(grad_h, grad_w, grad_b)
        return total / n

    @staticmethod
    def backward(ctx, g):
        grad_h, grad_w, grad_b = ctx.saved_tensors
        return grad_h * g, grad_w * g, grad_b * g, None, None


class SelfAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention without weights goes through scaled_dot_product_attention."""

    def __init__(self, d_model, n_heads):
        super().__init__(d_model, n_heads, batch_first=True)

    def forward(self, x):
        T = x.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=x.device, dtype=x.dtype)
        return super().forward(x, x, x, attn_mask=mask, need_weights=False, is_causal=True)[0]


class Block(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = SelfAttention(d_model, n_heads)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Captioner(nn.Module):
    def __init__(self, vocab_size=2000, d_model=128, n_heads=4, n_layers=4, max_len=256):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, d_model // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(d_model // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.tok = nn.Embedding(vocab_size, d_model)
        self.pos = nn.Embedding(max_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads) for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens, rows=96):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens[:, :-1])], dim=1)
        x = x + self.pos(torch.arange(x.size(1), device=x.device))
        for block in self.blocks:
            x = block(x)
        h = self.ln_f(x[:, prefix.size(1):]).flatten(0, 1)
        return LinearCrossEntropy.apply(h, self.head.weight, self.head.bias, tokens[:, 1:].flatten(), rows)


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--batch-size", type=int, default=16)
    p.add_argument("--d-model", type=int, default=128)
    p.add_argument("--n-layers", type=int, default=4)
    p.add_argument("--lr", type=float, default=3e-4)
    return p.parse_args()


def main():
    args = parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=device.type == "cuda", foreach=False if device.type == "cpu" else None)

    history, step = [], 0
    while step < args.steps:
        for images, tokens in loader:
            if step == args.steps:
                break
            images, tokens = images.to(device), tokens.to(device)
            loss = model(images, tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            history.append(loss.item())
            del images, tokens, loss
            step += 1
            if step % 5 == 0:
                print(f"step {step} loss {history[-1]}")

    optimizer.zero_grad()
    torch.cuda.empty_cache()
    model.eval()
    with torch.no_grad():
        vals = [float(model(im.to(device), tk.to(device))) for (im, tk), _ in zip(val_loader, range(4))]
    print(f"val loss: {sum(vals) / len(vals):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
