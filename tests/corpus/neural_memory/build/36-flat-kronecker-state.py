"""The associations as one flat vector a sequence: position i * K + j is the synapse from key j to value i."""
import torch
import torch.nn as nn


class NeuralMemory(nn.Module):
    def __init__(self, d_model, keys=12, values=20):
        super().__init__()
        self.keys, self.values = keys, values
        self.sense = nn.Linear(d_model, keys + values + keys)
        self.compare_in = nn.Linear(2 * values, 2 * values)
        self.compare_out = nn.Linear(2 * values, values)
        self.forgetting = nn.Parameter(torch.zeros(values * keys).uniform_(-4, -2))
        self.express = nn.Linear(values, d_model)

    def look_up(self, synapses, address):
        return (synapses.view(-1, self.values, self.keys) @ address.unsqueeze(-1)).squeeze(-1)

    def associate(self, value, key):
        return value.repeat_interleave(self.keys, dim=1) * key.repeat(1, self.values)

    def forward(self, x):
        synapses = x.new_zeros(x.size(0), self.values * self.keys)
        spoken = []
        for moment in x.unbind(1):
            k, v, cue = self.sense(moment).split([self.keys, self.values, self.keys], dim=1)
            k, cue = k.softmax(1), cue.softmax(1)
            hidden = torch.tanh(self.compare_in(torch.cat([v, self.look_up(synapses, k)], dim=1)))
            surprise = self.compare_out(hidden).sigmoid()
            synapses = synapses - torch.sigmoid(self.forgetting) * synapses
            synapses = synapses + self.associate(surprise * v, k)
            spoken.append(self.look_up(synapses, cue))
        return self.express(torch.stack(spoken, 1))


class Unit(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.norms = nn.ModuleDict({"in": nn.LayerNorm(d_model), "out": nn.LayerNorm(d_model)})
        self.focus = nn.MultiheadAttention(d_model, n_heads, batch_first=True)
        self.memory = NeuralMemory(d_model)
        self.valve = nn.Sequential(nn.Linear(3 * d_model, 32), nn.Tanh(), nn.Linear(32, 1), nn.Sigmoid())
        self.dense = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.Hardswish(), nn.Linear(2 * d_model, d_model))

    def forward(self, x):
        h = self.norms["in"](x)
        n = h.size(1)
        a = self.focus(h, h, h, attn_mask=torch.ones(n, n, dtype=torch.bool, device=h.device).triu_(1), need_weights=False)[0]
        m = self.memory(h)
        open_ = self.valve(torch.cat([h, a, m], dim=-1))
        x = x + m + open_ * (a - m)
        return x + self.dense(self.norms["out"](x))


class MemoryTransformer(nn.Module):
    def __init__(self, vocab_size=256, d_model=64, n_heads=4, n_layers=2, max_len=512):
        super().__init__()
        self.word, self.slot = nn.Embedding(vocab_size, d_model), nn.Embedding(max_len, d_model)
        self.units = nn.ModuleList([Unit(d_model, n_heads) for _ in range(n_layers)])
        self.guess = nn.Linear(d_model, vocab_size)

    def forward(self, tokens):
        x = self.word(tokens) + self.slot(torch.arange(tokens.size(1), device=tokens.device))
        for unit in self.units:
            x = unit(x)
        return self.guess(x)
