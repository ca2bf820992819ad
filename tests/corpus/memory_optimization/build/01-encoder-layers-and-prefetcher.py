# train.py -- captioner, reworked for small cards.
# The hand-rolled block is what nn.TransformerEncoderLayer(norm_first=True) already is, so use that:
# with an attention mask and is_causal it ends in the fused attention kernel.
import argparse

import torch
from torch import nn
from torch.nn import functional as F
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


class Prefetcher:
    """Copies the next batch on a side stream while the current one is computed."""

    def __init__(self, loader, device):
        self.loader, self.device = loader, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _load(self, it):
        try:
            batch = next(it)
        except StopIteration:
            return None
        if self.stream is None:
            return [t.to(self.device) for t in batch]
        with torch.cuda.stream(self.stream):
            return [t.to(self.device, non_blocking=True) for t in batch]

    def __iter__(self):
        it = iter(self.loader)
        nxt = self._load(it)
        while nxt is not None:
            if self.stream is not None:
                torch.cuda.current_stream().wait_stream(self.stream)
                for t in nxt:
                    t.record_stream(torch.cuda.current_stream())
            cur, nxt = nxt, self._load(it)
            yield cur


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
        layer = lambda: nn.TransformerEncoderLayer(
            d_model, n_heads, 4 * d_model, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(layer() for _ in range(n_layers))
        self.ln_f = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, images, tokens):
        prefix = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([prefix, self.tok(tokens)], dim=1)
        n = x.size(1)
        x = x + self.pos.weight[:n]
        mask = nn.Transformer.generate_square_subsequent_mask(n, device=x.device, dtype=x.dtype)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.head(self.ln_f(x[:, prefix.size(1):]))


def loss_fn(model, images, tokens, device):
    with torch.amp.autocast(device.type, dtype=torch.bfloat16):
        logits = model(images, tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.inference_mode()
def evaluate(model, loader, device, max_batches=4):
    model.eval()
    total = count = 0
    for i, (images, tokens) in enumerate(loader):
        if i == max_batches:
            break
        total += loss_fn(model, images.to(device), tokens.to(device), device).item()
        count += 1
    model.train()
    return total / count


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
    on_gpu = device.type == "cuda"
    loader = DataLoader(CaptionData(), batch_size=args.batch_size, shuffle=True, drop_last=True, pin_memory=on_gpu)
    val_loader = DataLoader(CaptionData(64), batch_size=args.batch_size)
    model = Captioner(d_model=args.d_model, n_layers=args.n_layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, foreach=False)

    history, step = [], 0
    while step < args.steps:
        for images, tokens in Prefetcher(loader, device):
            if step == args.steps:
                break
            loss = loss_fn(model, images, tokens, device)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append(loss.item())
            step += 1
            if step % 5 == 0:
                print(f"step {step} loss {history[-1]:.4f}")

    print(f"val loss: {evaluate(model, val_loader, device):.4f}")
    print(f"final loss: {history[-1]:.4f}")
    if on_gpu:
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
