"""An answer in a given form: by the way that the server has, and repaired once."""

import json

import pytest

from llm.errors import CallFailed
from llm.structure import TOOL, Unusable, ask_structured, find_objects
from tests.llm.calling import request, with_port
from tests.messages_api import MessagesApi, Says, Status, thinking, tool_use

SCHEMA = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"], "additionalProperties": False}


def check(data):
    if not isinstance(data.get("score"), int):
        raise ValueError(f"score is {data.get('score')!r}, must be a whole number")
    return data["score"]


def structured(api, folder, asked=None, **env):
    return with_port(api, folder, lambda port: ask_structured(port, asked or request(), SCHEMA, check, scope="test"), **env)


def test_a_server_that_has_schemas_is_given_the_schema(tmp_path):
    with MessagesApi([Says('{"score": 7}')]) as api:
        assert structured(api, tmp_path).answer == 7
    assert api.bodies[0]["output_config"]["format"] == {"type": "json_schema", "schema": SCHEMA}


def test_one_that_refuses_schemas_is_given_a_tool_and_that_is_remembered(tmp_path):
    with MessagesApi(otherwise=lambda body: Says(blocks=(tool_use(TOOL, {"score": 3}),), stop_reason="tool_use")) as api:
        api.unknown_fields = {"output_config"}

        async def twice(port):
            return [(await ask_structured(port, request(), SCHEMA, check)).answer for _ in range(2)]

        assert with_port(api, tmp_path, twice) == [3, 3]
    assert ["tools" in body for body in api.bodies] == [False, True, True]
    assert api.bodies[1]["tool_choice"] == {"type": "tool", "name": TOOL}


def test_a_thinking_model_is_not_forced_to_use_the_tool(tmp_path):
    said = Says(blocks=(thinking(), tool_use(TOOL, {"score": 3})), stop_reason="tool_use")
    with MessagesApi([said]) as api:
        structured(api, tmp_path, request(thinking=True), LLM_STRUCTURE="tool")
    assert api.bodies[0]["tool_choice"] == {"type": "auto"}


def test_one_that_refuses_tools_too_is_asked_in_words(tmp_path):
    with MessagesApi([Says('Here it is:\n```json\n{"score": 5}\n```')]) as api:
        api.unknown_fields = {"output_config", "tools"}
        assert structured(api, tmp_path).answer == 5
    assert len(api.asked) == 3


def test_other_errors_are_not_taken_for_a_missing_ability(tmp_path):
    with MessagesApi([Status(401)]) as api, pytest.raises(CallFailed):
        structured(api, tmp_path)
    assert len(api.asked) == 1


@pytest.mark.parametrize("bad", ["no JSON at all", '{"score": "high"}', '{"score": 7', '{"score": NaN}'])
def test_an_unusable_answer_is_asked_for_once_more_with_what_is_wrong(tmp_path, bad):
    with MessagesApi([Says(bad), Says('{"score": 8}')]) as api:
        found = structured(api, tmp_path)
    assert (found.answer, len(found.replies)) == (8, 2)
    said = api.bodies[1]["messages"]
    assert said[1] == {"role": "assistant", "content": [{"type": "text", "text": bad}]}
    assert "could not be used" in json.dumps(said[2])


def test_a_wrong_tool_is_answered_and_the_right_one_asked_for(tmp_path):
    wrong = Says(blocks=(tool_use("run_code", {"code": "1"}, "toolu_9"),), stop_reason="tool_use")
    right = Says(blocks=(tool_use(TOOL, {"score": 2}),), stop_reason="tool_use")
    with MessagesApi([wrong, right]) as api:
        assert structured(api, tmp_path, LLM_STRUCTURE="tool").answer == 2
    result = api.bodies[1]["messages"][2]["content"][0]
    assert (result["type"], result["tool_use_id"], result["is_error"]) == ("tool_result", "toolu_9", True)
    assert "the tool run_code was called, which does not exist" in result["content"]


def test_what_is_unusable_twice_is_a_parse_failure_and_knows_its_calls(tmp_path):
    with MessagesApi(otherwise=lambda body: Says("ten out of ten")) as api, pytest.raises(Unusable) as error:
        structured(api, tmp_path)
    assert (error.value.reason, len(error.value.replies), len(api.asked)) == ("parse_failure", 2, 2)


@pytest.mark.parametrize(
    ("stop", "reason"), [("refusal", "refused"), ("max_tokens", "cut_off"), ("model_context_window_exceeded", "cut_off")]
)
def test_a_refusal_and_a_cut_answer_are_not_repaired(tmp_path, stop, reason):
    with MessagesApi([Says("I can't judge this", stop_reason=stop)]) as api, pytest.raises(Unusable) as error:
        structured(api, tmp_path)
    assert (error.value.reason, len(api.asked)) == (reason, 1)


def test_a_refusal_counts_even_if_it_holds_an_answer(tmp_path):
    with MessagesApi([Says('{"score": 9}', stop_reason="refusal")]) as api, pytest.raises(Unusable, match="refused"):
        structured(api, tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', [{"a": 1}]),
        ('x {"a": {"b": 2}} y {"c": 3}', [{"a": {"b": 2}}, {"c": 3}]),
        ('{not json} {"a": "}"}', [{"a": "}"}]),
        ("{" * 20_000, []),
    ],
)
def test_json_is_found_in_text(text, found):
    assert find_objects(text) == found
