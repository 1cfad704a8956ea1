"""Streams as servers send them, each with what a reader must find in it.

Written after the wire formats of OpenAI, vLLM, llama.cpp, Azure and OpenRouter; identifiers are made up.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain import Usage

_OPENAI = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_06737a9306",'
)


def _chat(choices: bytes, usage: bytes = b"null") -> bytes:
    return _OPENAI + b'"choices":[' + choices + b'],"usage":' + usage + b',"obfuscation":"f8Qz1kR"}\n\n'


def _choice(delta: bytes, *, index: int = 0, finish: bytes = b"null") -> bytes:
    return b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish)


@dataclass(frozen=True)
class Recording:
    """A stream and what it holds."""

    name: str
    operation: str
    stream: bytes
    tokens: tuple[int, ...]
    """Counted per piece, zeros left out."""
    deltas: int
    usage: Usage | None
    extra_chunk: bytes = b""
    """What is taken out for a client that did not ask for it."""
    choices: int = 1


_CHAT_USAGE = _chat(
    b"",
    b'{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}',
)

CHAT = Recording(
    name="chat",
    operation="chat",
    stream=_chat(_choice(b'{"role":"assistant","content":"","refusal":null}'))
    + _chat(_choice(b'{"content":"Hello"}'))
    + _chat(_choice(b'{"content":" w\\u00f6rld \\ud83d\\ude00"}'))
    + _chat(_choice(b'{"content":"This one holds \\"usage\\": {} and some tokens."}'))
    + _chat(_choice(b"{}", finish=b'"stop"'))
    + _CHAT_USAGE
    + b"data: [DONE]\n\n",
    tokens=(1, 1, 11),
    deltas=3,
    usage=Usage(input=15, cached_input=4, output=7, reasoning=3),
    extra_chunk=_CHAT_USAGE,
)

TOOL_CALLS = Recording(
    name="tool calls, two choices",
    operation="chat",
    choices=2,
    stream=_chat(
        _choice(
            b'{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_DdmO9pD3xa9XTPNJ32zg2hcA","type":"function",'
            b'"function":{"name":"get_weather","arguments":""}}],"refusal":null}'
        )
    )
    + _chat(_choice(b'{"tool_calls":[{"index":0,"function":{"arguments":"{\\"city\\":\\"Paris, France\\"}"}}]}'))
    + _chat(_choice(b'{"content":"Sunny"}', index=1) + b"," + _choice(b'{"refusal":"I cannot"}'))
    + _chat(_choice(b'{"function_call":{"name":"f","arguments":"{}"}}', index=1))
    + _chat(_choice(b"{}", finish=b'"tool_calls"'))
    + _chat(_choice(b"{}", index=1, finish=b'"stop"'))
    + b"data: [DONE]\n\n",
    tokens=(1, 6, 2, 1),
    deltas=5,
    usage=None,
)

_VLLM = b'data: {"id":"chatcmpl-7f3a","object":"chat.completion.chunk","created":1763700000,"model":"Qwen/Qwen3-8B","choices":'
VLLM = Recording(
    name="vLLM, reasoning under two names, usage on every chunk",
    operation="chat",
    stream=_VLLM
    + b'[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":12,"total_tokens":12,"completion_tokens":0}}\n\n'
    + _VLLM
    + b'[{"index":0,"delta":{"reasoning":"Hm","reasoning_content":"Hm"}}],'
    + b'"usage":{"prompt_tokens":12,"total_tokens":13,"completion_tokens":1}}\n\n'
    + _VLLM
    + b'[{"index":0,"delta":{"content":"4"},"finish_reason":"stop","stop_reason":null}],'
    + b'"usage":{"prompt_tokens":12,"total_tokens":14,"completion_tokens":2,"prompt_tokens_details":null}}\n\n'
    + _VLLM
    + b'[],"usage":{"prompt_tokens":12,"total_tokens":14,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
    tokens=(1, 1),
    deltas=2,
    usage=Usage(input=12, output=2),
    extra_chunk=_VLLM + b'[],"usage":{"prompt_tokens":12,"total_tokens":14,"completion_tokens":2}}\n\n',
)

LLAMA_CPP = Recording(
    name="llama.cpp, usage beside a finish reason",
    operation="chat",
    stream=b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1763700000,'
    b'"id":"chatcmpl-a","model":"tiny","system_fingerprint":"b7000","object":"chat.completion.chunk"}\r\n\r\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"tok"}}],"created":1763700000,"id":"chatcmpl-a","model":"tiny",'
    b'"object":"chat.completion.chunk"}\r\n\r\n'
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1763700000,"id":"chatcmpl-a","model":"tiny",'
    b'"object":"chat.completion.chunk","usage":{"completion_tokens":1,"prompt_tokens":7,"total_tokens":8},'
    b'"timings":{"cache_n":0,"prompt_n":7,"prompt_ms":3.5,"predicted_n":1}}\r\n\r\ndata: [DONE]\r\n\r\n',
    tokens=(1,),
    deltas=1,
    usage=Usage(input=7, output=1),
)

OPENROUTER = Recording(
    name="comments, repeated reasoning details, costs in the usage",
    operation="chat",
    stream=b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
    b'data: {"id":"gen-1","provider":"X","model":"m","object":"chat.completion.chunk","created":1,"choices":[{"index":0,"delta":{'
    b'"role":"assistant","content":"","reasoning":"We add.","reasoning_details":[{"type":"reasoning.text","text":"We add.",'
    b'"format":"unknown"}]},'
    b'"finish_reason":null,"native_finish_reason":null}]}\n\n'
    b'data: {"id":"gen-1","choices":[{"index":0,"delta":{"role":"assistant","content":"4"},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"gen-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"cost":0.00021,"is_byok":false,'
    b'"cost_details":{"upstream_inference_cost":null}}}\n\ndata: [DONE]\n\n',
    tokens=(1, 1),
    deltas=2,
    usage=Usage(input=9, output=5),
    extra_chunk=b'data: {"id":"gen-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"cost":0.00021,'
    b'"is_byok":false,"cost_details":{"upstream_inference_cost":null}}}\n\n',
)

AZURE = Recording(
    name="a first chunk without choices, which is not the usage chunk",
    operation="chat",
    stream=b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"id":"c","model":"gpt-4o","usage":null}\n\n'
    b"data: [DONE]\n\n",
    tokens=(1,),
    deltas=1,
    usage=None,
)

MALFORMED = Recording(
    name="events that no parser reads, each counted by its bytes",
    operation="chat",
    stream=b'data: {"choices":[{"index":0,"delta":{"content":"half"\n\n'
    b'data: {"choices":"none"}\n\n'
    b'data: {"text":"unknown shape"}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"},"logprobs":-Infinity}]}\n\n'
    b'data: {"choices":[{"index":{},"delta":["odd"],"finish_reason":"stop"},'
    b'{"index":0,"delta":{"content":[{"type":"text","text":"part"}]}}]}\n\n'
    b"data:\n\nevent: ping\n\ndata: [DONE]\n\n",
    tokens=(12, 5, 6, 1, 2),
    deltas=3,
    usage=None,
)

COMPLETION = Recording(
    name="text completion",
    operation="completions",
    stream=b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":"Once","index":0,"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"text":"","index":0,"logprobs":null,'
    b'"finish_reason":"length"}],"usage":null}\n\n'
    b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":5,'
    b'"completion_tokens":1,"total_tokens":6}}\n\ndata: [DONE]\n\n',
    tokens=(1,),
    deltas=1,
    usage=Usage(input=5, output=1),
    extra_chunk=b'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":5,'
    b'"completion_tokens":1,"total_tokens":6}}\n\n',
)


def _event(name: bytes, members: bytes, number: int) -> bytes:
    return b'event: %b\ndata: {"type":"%b",%b,"sequence_number":%d}\n\n' % (name, name, members, number)


_RESPONSE = b'"response":{"id":"resp_1","object":"response","created_at":1741476777,"status":"%b","model":"gpt-4o-2024-08-06",%b}'
RESPONSES = Recording(
    name="responses",
    operation="responses",
    stream=_event(b"response.created", _RESPONSE % (b"in_progress", b'"output":[],"usage":null'), 0)
    + _event(b"response.output_item.added", b'"output_index":0,"item":{"id":"rs_1","type":"reasoning","summary":[]}', 1)
    + _event(b"response.reasoning_summary_text.delta", b'"item_id":"rs_1","summary_index":0,"delta":"**Thinking hard**!!"', 2)
    + _event(b"response.output_item.added", b'"output_index":1,"item":{"id":"msg_1","type":"message","role":"assistant","content":[]}', 3)
    + _event(b"response.output_text.delta", b'"item_id":"msg_1","output_index":1,"content_index":0,"delta":"Hi","logprobs":[]', 4)
    + _event(b"response.output_text.done", b'"item_id":"msg_1","output_index":1,"content_index":0,"text":"Hi"', 5)
    + _event(
        b"response.output_item.added",
        b'"output_index":2,"item":{"id":"fc_1","type":"function_call","call_id":"call_1","name":"get_weather","arguments":""}',
        6,
    )
    + _event(b"response.function_call_arguments.delta", b'"item_id":"fc_1","output_index":2,"delta":"{}"', 7)
    + _event(
        b"response.completed",
        _RESPONSE
        % (
            b"completed",
            b'"output":[{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"**Thinking hard**!!"}]},'
            b'{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"output_text","text":"Hi","annotations":[]}]},'
            b'{"id":"fc_1","type":"function_call","call_id":"call_1","name":"get_weather","arguments":"{}"}],'
            b'"usage":{"input_tokens":37,"input_tokens_details":{"cached_tokens":5},"output_tokens":20,'
            b'"output_tokens_details":{"reasoning_tokens":12},"total_tokens":57}',
        ),
        8,
    ),
    tokens=(5, 1, 1, 1),
    deltas=4,
    usage=Usage(input=32, cached_input=5, output=8, reasoning=12),
)

RECORDINGS = (CHAT, TOOL_CALLS, VLLM, LLAMA_CPP, OPENROUTER, AZURE, MALFORMED, COMPLETION, RESPONSES)
