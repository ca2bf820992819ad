"""A program whose text has no choice in it is spared the runs that look for one; whatever could be a choice is not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from graders.code.channel import PROBES
from tests.graders.checks import grade, program

ASK = (
    "import json, sys, tempfile\nsys.path.insert(0, sys.argv[1])\nfrom straight import is_straight\n"
    "def ask(text):\n    with tempfile.NamedTemporaryFile('w', suffix='.py') as file:\n"
    "        file.write(text)\n        file.flush()\n        return is_straight(file.name)\n"
    "print(json.dumps([ask(text) for text in json.load(sys.stdin)]))"
)
STEP = "M = f * M + s.unsqueeze(-1) * w"
SHORT = "    def forward(self, x):\n        B"
STRAIGHT = {
    "the right program": program(),
    "with layers, a table and a choice when it is made": program(
        init="self.more = nn.ModuleList(nn.Linear(d, d) for _ in range(2))\nif d > 16:\n    self.scale = d**-0.5",
        before="for layer in self.more:\n    x = layer(x) * self.scale",
    ),
    "with a part that only a script runs": program() + "\nif __name__ == '__main__':\n    import time\n    print(time.time())\n",
}
CHOICES = {
    "a branch": program(before="x = x * 2 if T > 20 else x"),
    "a short cut of and": program(before="y = x is k and v"),
    "a loop that ends": program(before="while T:\n    T = T - 1"),
    "an error that is caught": program(before="try:\n    x = x + k[:, 20]\nexcept IndexError:\n    x = x"),
    "a list by number": program(before="x = [x, k][T // 20]"),
    "a dictionary": program(before="x = {16: k}.get(T, x)"),
    "steps beyond a number": program(before="for t in range(T - 20):\n    x = x * 2"),
    "tokens beyond a number": program(before="for y in x[:, 20:].unbind(1):\n    x = x * 2"),
    "a length made of a length": program(before="for y in x.new_zeros(T // 20, D).unbind(0):\n    x = x * 2"),
    "a length stretched from a length": program(before="for y in x.unsqueeze(0).expand(T // 20, B, T, D).unbind(0):\n    x = x * 2"),
    "a length of numbers in a row": program(before="for y in torch.arange(0, T, 20).unbind(0):\n    x = x * 2"),
    "a loop over a value": program(before="for t in range(self.n):\n    x = x * 2", init="self.register_buffer('n', torch.tensor(2))"),
    "one part of many by step": program(read="self.more[t](r)", init="self.more = nn.ModuleList(nn.Linear(d, d) for _ in range(70))"),
    "layers beside tokens": program(
        before="for layer, y in zip(self.more, x.unbind(1)):\n    x = layer(x)",
        init="self.more = nn.ModuleList(nn.Linear(d, d) for _ in range(70))",
    ),
    "places that change": program(update=f"{STEP}\nk, v = v, k"),
    "what is kept from step to step": program(update=f"{STEP}\nold = w"),
    "what is kept by a call that does nothing": program(update=f"{STEP}\nold = w.float()"),
    "what is kept by a layer that does nothing": program(update=f"{STEP}\nold = self.off(w)", init="self.off = nn.Dropout(0.1)"),
    "what is kept by a function": program(update=f"{STEP}\nk, v = self.two(v, k)").replace(
        SHORT, f"    def two(self, a, b):\n        return b, a\n\n{SHORT}", 1
    ),
    "what is kept in a list": program(before="old = []", update=f"{STEP}\nold.append(w)\nw = old[0]"),
    "what lasts beyond a call": program(before="self.last = x"),
    "a value in Python": program(before="x = x * x.sum().item()"),
    "tokens where something holds": program(before="y = x[x > 0]"),
    "a size that is a value": program(before="y = x.new_zeros(B, self.decay)"),
    "a clock": program().replace("import math", "import time"),
    "a clock that torch has": program(before="x = x * torch.hub.time.time()"),
    "a seed": program(before="x = x * torch.initial_seed()"),
    "a GPU": program(before="x = x * torch.cuda.is_available()"),
    "the environment": program().replace("import math", "from os import environ"),
    "a choice of torch's": program(before="x = torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))"),
    "another name for torch's choice": program().replace("import math", "from torch import cond as relu"),
    "torch under another name": program(before="other = torch\nx = other.relu(x)"),
    "a name that is computed": program(before="x = getattr(torch, 'relu')(x)"),
    "a name of Python's own": program(before="x = x.__class__(x)"),
    "a method in the place of torch's": program().replace(SHORT, f"    def size(self, n):\n        return n * 2\n\n{SHORT}", 1),
    "an operator of its own": program().replace(SHORT, f"    def __getattr__(self, name):\n        return 1\n\n{SHORT}", 1),
    "a decorator": program().replace(SHORT, SHORT.replace("    def", "    @torch.compile\n    def"), 1),
    "a default that is computed": program().replace("d=32)", "d=int(torch.ones(1)))", 1),
    "a forward pass put in its place": program(init="self.forward = print"),
    "a hook": program(init="self.register_forward_hook(print)"),
    "a built-in of its own": program() + "\ndef range(n):\n    return [1]\n",
    "a script's name": "__name__ = '__main__'\n" + program(),
    "a script's other branch": program() + "\nif __name__ == '__main__':\n    pass\nelse:\n    x = 1\n",
    "another way of writing letters": "# -*- coding: utf-7 -*-\n" + program() + "\n# +AAo-import time\n",
    "no text": "def main(:\n",
}


@pytest.fixture(scope="module")
def straight() -> dict[str, bool]:
    texts = {**STRAIGHT, **CHOICES}
    command = [sys.executable, "-c", ASK, str(PROBES)]
    done = subprocess.run(command, input=json.dumps([*texts.values()]), capture_output=True, text=True, check=True)
    return dict(zip(texts, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", STRAIGHT)
def test_a_text_without_a_choice_is_straight(straight, name):
    assert straight[name] is True


@pytest.mark.parametrize("name", CHOICES)
def test_what_could_be_a_choice_is_in_doubt(straight, name):
    assert straight[name] is False


def test_where_each_further_token_makes_for_more_than_the_last_the_other_runs_are_made_and_tell_nothing_new():
    source = program(before="for y in torch.cat([x] * T, 1).unbind(1):\n    y = y * 2")
    assert grade(source).passed
