"""What can go wrong with a tool. ToolError: its text is what the model is told.

ServiceError    arXiv or Semantic Scholar gave no usable answer; that says nothing about what was asked for
ExtractError    a paper's file can't be read
"""

from __future__ import annotations


class ToolError(RuntimeError):
    """The tool could not do what it was asked; the model may try something else."""


class ServiceError(ToolError):
    """A service gave no usable answer."""


class ExtractError(ToolError):
    """A file can't be read: damaged, too large, or not what it says it is."""
