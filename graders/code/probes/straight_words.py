"""The words of a straight program (straight.py): what torch and math give it, and which methods it may call.

Runs INSIDE the sandbox, before the program.
"""

from __future__ import annotations

from types import FunctionType, GeneratorType

import torch

TORCH = {
    *"abs addcdiv addcmul add arange baddbmm bmm cat clamp cos cumprod cumsum diag_embed div einsum empty empty_like exp exp2 eye".split(),
    *"flip full lerp linspace log log1p logsumexp matmul maximum mean minimum mul norm ones ones_like outer pow rand randn relu".split(),
    *"rsqrt sigmoid sin softmax sqrt square stack sub sum tanh tensor tril triu zeros zeros_like".split(),
    *"Tensor bool float float32 float64 long int64".split(),
}
FUNCTIONAL = {
    *"cosine_similarity cross_entropy elu gelu glu layer_norm leaky_relu linear log_softmax logsigmoid mse_loss".split(),
    *"normalize relu scaled_dot_product_attention sigmoid silu softmax softplus tanh".split(),
}
LAYERS = {
    *"Dropout ELU Embedding GELU GLU LayerNorm LeakyReLU Linear Module ModuleList MultiheadAttention Parameter RMSNorm".split(),
    *"ReLU Sequential Sigmoid SiLU Softmax Softplus Tanh".split(),
}
INIT = {
    "constant_",
    "eye_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_uniform_",
    "zeros_",
}
MATH = {"cos", "exp", "inf", "log", "pi", "sin", "sqrt"}
OWNED = {"torch": TORCH, "torch.nn.functional": FUNCTIONAL, "torch.nn": LAYERS, "torch.nn.init": INIT, "math": MATH}
KNOWN = {f"{owner}.{name}" for owner, names in OWNED.items() for name in names}
TYPES = {"Any", "List", "Optional", "Tuple", "Union"}
# What tensors and lists have that gives tensors, or the same each time. The first ones make a length, and tell one.
MADE = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "new_empty",
    "new_full",
    "new_ones",
    "new_zeros",
    "ones",
    "rand",
    "randn",
    "repeat",
    "zeros",
}
LAID = {"expand", "reshape", "unflatten", "view"}
PARTED = {"chunk", "split"}
TOLD = {"shape", "size", "unbind"}
METHODS = (
    {
        *"abs add add_ addcmul append baddbmm bias bmm bool clamp clamp_max clamp_min clone contiguous copy_ cos cumprod cumsum".split(),
        *"data detach diag_embed div double dtype exp exp2 expand_as fill_ flatten flip float forward lerp log log1p logsumexp".split(),
        *"masked_fill masked_fill_ matmul mean mm mT mul mul_ neg norm normal_ ones_ outer permute pow reciprocal register_buffer".split(),
        *"relu requires_grad_ rsqrt sigmoid sin softmax sqrt square squeeze sub sub_ sum swapaxes t tanh to transpose tril triu".split(),
        *"device type_as uniform_ unsqueeze view_as weight where zero_ new_empty new_full new_ones new_zeros repeat empty".split(),
    }
    | LAID
    | PARTED
    | TOLD
)
PASSING = {"bool", "contiguous", "double", "flatten", "float", "requires_grad_", "to", "type_as"}  # may give back what they are asked of
HARMLESS = {"H", "dim", "encode", "read", "update", "write"}  # what tensors and lists have by these names leads nowhere
BUILT_IN = {"enumerate", "float", "range", "super", "zip"}
AT_FIRST = {"bool", "int", "len", "list", "max", "min", "tuple", "AssertionError", "RuntimeError", "TypeError", "ValueError"}


def _owns(*things: object) -> set[str]:
    return {name for thing in things for name in dir(thing)}


TAKEN = _owns(
    torch.Tensor, torch.nn.Linear(1, 1), torch.nn.ModuleList(), list, tuple, dict, str, int, float, type, FunctionType, GeneratorType
)
TAKEN |= _owns(*(getattr(torch.nn, name) for name in LAYERS))
