"""Tool: something that an agent may call. What it returns, or the text of its ToolError, is what the model is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import llm.types
from tasks.tools.errors import ToolError


@dataclass(frozen=True)
class Tool:
    """`arguments`: name -> what it is; all are texts and all are required. `run` blocks and may be called from any thread."""

    name: str
    description: str
    arguments: Mapping[str, str]
    run: Callable[..., str]
    longest: int = 40_000
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def spec(self) -> llm.types.Tool:
        properties = {name: {"type": "string", "description": text} for name, text in self.arguments.items()}
        schema = {"type": "object", "properties": properties, "required": list(self.arguments), "additionalProperties": False}
        return llm.types.Tool(self.name, self.description, schema)

    def call(self, given: Mapping[str, Any]) -> str:
        """Raises ToolError, also for arguments that do not fit."""
        if set(given) != set(self.arguments):
            raise ToolError(f"{self.name} takes {', '.join(self.arguments) or 'nothing'}; got {', '.join(map(str, given)) or 'nothing'}")
        for name, value in given.items():
            if not isinstance(value, str) or not value.strip():
                raise ToolError(f"{name} is {str(value)[:80]!r}, must be a text that is not empty")
            if len(value) > self.limits.get(name, 1_000):
                raise ToolError(f"{name} has {len(value):,} characters, allowed: {self.limits.get(name, 1_000):,}")
        answer = self.run(**given)
        return answer if len(answer) <= self.longest else f"{answer[: self.longest]}\n[cut: {len(answer) - self.longest:,} more characters]"
