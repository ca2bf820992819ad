import argparse, itertools
import torch
from torch import nn
from torch.nn import functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--d-model", type=int, default=128)
parser.add_argument("--n-layers", type=int, default=4)
parser.add_argument("--lr", type=float, default=3e-4)
args = parser.parse_args()

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
cuda = device.type == "cuda"
D, H, V = args.d_model, 4, 2000


def captions(n):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 32, 32, generator=g)
    return torch.utils.data.TensorDataset(x, (torch.randint(0, V, (n, 1), generator=g) + torch.arange(33)) % V)


train = torch.utils.data.DataLoader(captions(256), args.batch_size, shuffle=True, drop_last=True)
val = torch.utils.data.DataLoader(captions(64), args.batch_size)

stem = nn.Sequential(
    nn.Conv2d(3, D // 2, 3, 2, 1), nn.BatchNorm2d(D // 2), nn.ReLU(True),
    nn.Conv2d(D // 2, D, 3, 2, 1), nn.ReLU(True))
net = nn.ModuleDict({
    "stem": stem,
    "tok": nn.Embedding(V, D),
    "pos": nn.Embedding(256, D),
    "blocks": nn.ModuleList(nn.ModuleDict({
        "ln1": nn.LayerNorm(D), "qkv": nn.Linear(D, 3 * D), "proj": nn.Linear(D, D),
        "ln2": nn.LayerNorm(D), "up": nn.Linear(D, 4 * D), "down": nn.Linear(4 * D, D)})
        for _ in range(args.n_layers)),
    "ln_f": nn.LayerNorm(D),
    "head": nn.Linear(D, V)}).to(device)
opt = torch.optim.AdamW(net.parameters(), lr=args.lr, foreach=True)


def caption_loss(img, tok):
    prefix = net["stem"](img).flatten(2).mT
    x = torch.cat([prefix, net["tok"](tok[:, :-1])], 1)
    n = x.size(1)
    x = x + net["pos"].weight[:n]
    for b in net["blocks"]:
        q, k, v = b["qkv"](b["ln1"](x)).view(len(x), n, 3, H, D // H).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + b["proj"](a.transpose(1, 2).reshape(len(x), n, D))
        x = x + b["down"](F.gelu(b["up"](b["ln2"](x))))
    logits = net["head"](net["ln_f"](x[:, prefix.size(1):]))
    return F.cross_entropy(logits.flatten(0, 1), tok[:, 1:].flatten())


def put(batch):
    return (t.to(device) for t in batch)


epochs = itertools.chain.from_iterable(itertools.repeat(train))
last = float("nan")
for step, batch in enumerate(itertools.islice(epochs, args.steps), 1):
    opt.zero_grad
    with torch.autocast(device.type):
        loss = caption_loss(*put(batch))
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    opt.step()
    last = loss.item()
    if step % 5 == 0:
        print(f"step {step} loss {last:.4f}")

net.eval()
with torch.no_grad():
    scores = torch.stack([caption_loss(*put(b)) for b in itertools.islice(val, 4)])
print(f"val loss: {scores.mean():.4f}")
print(f"final loss: {last:.4f}")
if cuda:
    print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:.1f} MiB")
