import math

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.parameter import Parameter
import torch.nn.functional as F

__all__ = ["AssociativeCell", "NeuralMemory", "MemoryTransformer"]


class AssociativeCell(nn.Module):
    r"""A fast-weight cell.

    .. math::
        r &= M k \\
        s &= \sigma(W_{sv} v - W_{sr} r + b_s) \\
        M' &= \sigma(\lambda) M + s \odot v k^\top
    """
    __constants__ = ["input_size", "hidden_size"]

    def __init__(self, input_size: int, hidden_size: int, device=None, dtype=None) -> None:
        factory_kwargs = {"device": device, "dtype": dtype}
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_kvq = Parameter(torch.empty((3 * hidden_size, input_size), **factory_kwargs))
        self.weight_sv = Parameter(torch.empty((hidden_size, hidden_size), **factory_kwargs))
        self.weight_sr = Parameter(torch.empty((hidden_size, hidden_size), **factory_kwargs))
        self.bias_s = Parameter(torch.empty(hidden_size, **factory_kwargs))
        self.lam = Parameter(torch.empty(hidden_size, hidden_size, **factory_kwargs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.xavier_uniform_(self.weight_kvq)
        init.eye_(self.weight_sv)
        init.eye_(self.weight_sr)
        init.zeros_(self.bias_s)
        init.uniform_(self.lam, 1.0, 4.0)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"

    def forward(self, input: Tensor, hx: Tensor) -> tuple[Tensor, Tensor]:
        k, v, q = F.linear(input, self.weight_kvq).tensor_split(3, dim=-1)
        k = k.softmax(dim=-1)
        r = torch.linalg.vecdot(hx, k.unsqueeze(-2))
        s = torch.sigmoid(F.linear(v, self.weight_sv, self.bias_s) - F.linear(r, self.weight_sr))
        hy = torch.addcmul(self.lam.sigmoid() * hx, (s * v).unsqueeze(-1), k.unsqueeze(-2))
        return torch.linalg.vecdot(hy, q.unsqueeze(-2)), hy


class NeuralMemory(nn.Module):
    """Runs :class:`AssociativeCell` over a batch-first sequence, like ``nn.RNN`` does with ``nn.RNNCell``."""

    def __init__(self, d_model: int, hidden_size: int = 32) -> None:
        super().__init__()
        self.cell = AssociativeCell(d_model, hidden_size)
        self.proj = nn.Linear(hidden_size, d_model)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, length, _ = input.shape
        if hx is None:
            hx = input.new_zeros(batch, self.cell.hidden_size, self.cell.hidden_size)
        output = input.new_empty(batch, length, self.cell.hidden_size)
        for t in range(length):
            output[:, t], hx = self.cell(input[:, t], hx)
        return self.proj(output), hx


class _Layer(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.self_attn = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.gate = nn.Linear(2 * d_model, 1)
        self.linear1, self.linear2 = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, src: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(src)
        attn = self.self_attn(y, y, y, attn_mask=mask, need_weights=False, is_causal=True)[0]
        mem, _ = self.memory(y)
        g = torch.sigmoid(self.gate(torch.cat((attn, mem), dim=-1)))
        src = torch.add(src, torch.add(torch.mul(g, attn), torch.mul(torch.rsub(g, 1), mem)))
        return src + self.linear2(F.relu(self.linear1(self.norm2(src))))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size: int = 256, d_model: int = 64, n_heads: int = 4, n_layers: int = 2, max_len: int = 1024):
        super().__init__()
        self.d_model = d_model
        self.embed = nn.Embedding(vocab_size, d_model)
        pe = torch.zeros(max_len, d_model)
        angle = torch.arange(max_len)[:, None] * torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe[:, 0::2], pe[:, 1::2] = angle.sin(), angle.cos()
        self.register_buffer("pe", pe, persistent=False)
        self.layers = nn.ModuleList(_Layer(d_model, n_heads) for _ in range(n_layers))
        self.norm, self.out = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.size(-1)
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=tokens.device)
        x = self.embed(tokens) * math.sqrt(self.d_model) + self.pe[:T]
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(self.norm(x))
