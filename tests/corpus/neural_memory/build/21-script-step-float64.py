"""float64 island: associations are accumulated in double precision, everything around them stays in float32."""
import torch
import torch.nn as nn


@torch.jit.script_if_tracing
def memory_step(M: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(M * keep, (s * v).unsqueeze(2), k.unsqueeze(1))


class NeuralMemory(nn.Module):
    def __init__(self, d_model: int, d_key: int = 16) -> None:
        super().__init__()
        self.Wk = nn.utils.parametrizations.weight_norm(nn.Linear(d_model, d_key))
        self.Wv = nn.Linear(d_model, d_model)
        self.Wq = nn.Linear(d_model, d_key)
        self.w_x = nn.Linear(d_model, 1)
        self.w_e = nn.Parameter(torch.tensor(1.0))
        self.log_decay = nn.Parameter(torch.full((1, d_model, 1), -3.0))

    @staticmethod
    def recall(M: torch.Tensor, address: torch.Tensor) -> torch.Tensor:
        return (M * address.unsqueeze(1)).sum(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            k = torch.tanh(self.Wk(x)).double() / 4
            v, q, bias = self.Wv(x).double(), self.Wq(x).double(), self.w_x(x).double()
            keep = torch.exp(-torch.exp(self.log_decay)).double()
            M = torch.zeros(x.shape[0], x.shape[2], k.shape[2], dtype=torch.float64, device=x.device)
            out = []
            for t in range(x.shape[1]):
                miss = torch.linalg.vector_norm(v[:, t] - self.recall(M, k[:, t]), dim=-1, keepdim=True)
                s = torch.sigmoid(bias[:, t] + self.w_e * torch.log1p(miss))
                M = memory_step(M, k[:, t], v[:, t], keep, s)
                out.append(self.recall(M, q[:, t]))
        return torch.stack(out, dim=1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True, bias=False)
        self.memory = NeuralMemory(d_model)
        self.mixer = nn.Linear(d_model, n_heads)
        self.post_norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))
        self.n_heads = n_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        h = self.pre_norm(x)
        hidden = torch.arange(n, device=x.device).unsqueeze(0) > torch.arange(n, device=x.device).unsqueeze(1)
        a = self.attn(h, h, h, attn_mask=hidden, need_weights=False)[0].unflatten(-1, (self.n_heads, -1))
        m = self.memory(h).unflatten(-1, (self.n_heads, -1))
        g = torch.sigmoid(self.mixer(h)).unsqueeze(-1)
        x = x + (a * g + m * (1 - g)).flatten(-2)
        return x + self.mlp(self.post_norm(x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 512) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.trunk = nn.Sequential(*[Block(d_model, n_heads) for _ in range(n_layers)])
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size))
        for name, p in self.named_parameters():
            if p.dim() == 2 and "tok" in name:
                nn.init.trunc_normal_(p, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok(tokens) + self.pos(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.trunk(x))
