"""Kinds of tensor operations, by name. Runs INSIDE the sandbox."""

from __future__ import annotations

from oplog import Graph, Node

SAME = {  # the same elements in another shape or place
    "view", "_unsafe_view", "unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "expand", "clone", "permute",
    "transpose", "t", "contiguous", "alias_copy", "_to_copy", "lift_fresh", "lift", "flatten", "mT", "movedim", "copy", "expand_as",
    "view_as", "repeat", "expand_copy", "view_copy", "_neg_view", "slice_scatter", "select_scatter", "unflatten",
}  # fmt: skip
CUT_OFF = {"detach"}  # the same value without gradient
PARTS = {"select", "slice", "split", "split_with_sizes", "unbind", "index", "alias", "narrow", "chunk", "diagonal", "unfold", "gather"}
JOINS = {"cat", "stack", "where", "index_put", "index_copy", "scatter"}
STRUCTURAL = SAME | CUT_OFF | PARTS | JOINS
ADDS = {"add", "sub", "rsub", "lerp", "addcmul", "addcdiv", "baddbmm", "addbmm", "addmm", "addr", "index_add", "scatter_add"}
PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "addbmm", "vdot"}
SUMS = {"sum", "mean", "linalg_vector_norm", "norm", "amax", "max", "amin", "min", "var", "std", "var_mean", "logsumexp", "cumsum"}
CONTRACT = PRODUCTS | SUMS
SOFT = {"_softmax", "_safe_softmax"}
BLEND = {"mul", "div", "neg", "sum", "bmm", "mm"} | ADDS | STRUCTURAL  # what lies between a gate and what it blends


def base(op: str) -> str:
    """The operation without the underscore of its in-place form."""
    return op[:-1] if op.endswith("_") and not op.startswith("_") else op


def is_a(node: Node, kinds: set[str]) -> bool:
    return base(node.op) in kinds


def param_operand(graph: Graph, node: Node) -> bool:
    """Does a trained value that the input has no part in enter this operation?"""
    return any(not graph.by_tokens(i) and graph.trained_params(i) for i in node.ins)


def core(graph: Graph, i: int) -> Node:
    """The value behind views, slices and reductions."""
    node = graph.nodes[i]
    while len(set(node.ins)) == 1 and is_a(node, SAME | CUT_OFF | PARTS | {"mean", "sum", "clamp", "clamp_min"}):
        node = graph.nodes[node.ins[0]]
    return node
