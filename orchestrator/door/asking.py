"""Bodies of `/v1/chat/completions` and `/v1/completions` to validated text queries. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from orchestrator.door.allowance import AUTO, Allowance, from_body, from_headers, from_model
from orchestrator.door.choices import MAX_CHOICES
from orchestrator.door.fields import Fields
from orchestrator.door.strict import not_finite
from orchestrator.errors import RequestError, Unavailable
from orchestrator.gateway import requests
from orchestrator.gateway.samples import MAX_SAMPLES, sampled
from orchestrator.gateway.texts import EMBEDDINGS
from orchestrator.prefixes import scope_of
from orchestrator.types import FusionChoice, GenerationParameters, Message, Task, TextQuery

FUSIONS = ("auto", "none", "vote", "judge", "token", "bytes")
FUSION_KEYS = ("mode", "max_experts", "continue_on_loss", "samples")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TALKERS = ("system", "user", "assistant")
TOOL_ROLES = ("tool", "function")
DEFAULT_TASK = "chat"
MESSAGE_EXTRAS = frozenset({"name", "tool_calls", "tool_call_id"})
MAX_PARTS = 256
MAX_TOOLS = 128
MAX_INPUTS = 64
MAX_DIMENSIONS = 65_536
MAX_COMPLETION_LOGPROBS = 5
# What OpenAI knows and the wire to the nodes does not carry: better refused than silently left out.
NOT_CARRIED = (
    *("audio", "modalities", "functions", "function_call", "prediction", "web_search_options"),
    *("echo", "suffix"),
)
REFUSED = frozenset({"best_of", *NOT_CARRIED})
# Fields that ask for more than a text, and all that say how it is to be generated; most requests have none of them.
BEYOND_TEXT = frozenset({"tools", "tool_choice", "response_format", "logprobs", "top_logprobs"})
PARAMETERS = BEYOND_TEXT | {"max_completion_tokens", "max_tokens", "temperature", "top_p", "seed", "stop"}
# Fields of our own and others that few requests have.
SELDOM = REFUSED.union(
    ("allowed_nodes", "budget", "explain", "fusion", "n", "plugins", "required_tags", "stream_options", "task", "user")
)
AS_USUAL = GenerationParameters(max_tokens=requests.DEFAULT_MAX_TOKENS)
NAME_HEADERS = {"allowed_nodes": "x-edgewise-allowed-nodes", "required_tags": "x-edgewise-required-tags"}
NO_NAMES: frozenset[str] = frozenset()
NO_NEEDS: frozenset[str] = frozenset()


class Asked(NamedTuple):
    """A text query and how its answer is wanted.

    Args:
        query: What is asked.
        chat: Whether the reply has the form of a chat.
        stream: Whether pieces are sent as they come.
        include_usage: Whether a stream ends with its usage.
        explain: Whether the reply says what else was considered.
        n: Answers that are wanted.
    """

    query: TextQuery
    chat: bool
    stream: bool
    include_usage: bool
    explain: bool
    n: int = 1


class Setting(NamedTuple):
    """What a request is read against.

    Args:
        headers: Those of the request that are part of what is asked, names in lower case.
        tasks: Those that nodes serve.
        task_of: Which of them a text expert has, None for a name that is none.
        max_deadline_s: The longest that a request may take.
        tenant: Who asks.
    """

    headers: Mapping[str, str]
    tasks: Mapping[str, Task]
    task_of: Callable[[str], str | None]
    max_deadline_s: float
    tenant: str = ""


def chat_request(body: Mapping[str, Any], setting: Setting) -> Asked:
    """A validated chat.

    Raises:
        RequestError: See the catalogue.
        Unavailable: NO_NODE, where no node serves texts.
    """
    fields = Fields(body)
    return _asked(fields, _messages(fields), setting, chat=True)


def completion_request(body: Mapping[str, Any], setting: Setting) -> Asked:
    """A validated completion: its prompt is what a user says.

    Raises:
        RequestError: See the catalogue.
        Unavailable: NO_NODE, where no node serves texts.
    """
    fields = Fields(body)
    prompt = fields.value.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        text = "prompt must be one text that is not empty; several, and token ids, are not taken."
        raise RequestError("FIELD_REQUIRED", text, field="prompt")
    return _asked(fields, (Message("user", prompt),), setting, chat=False)


def embeddings_request(body: Mapping[str, Any], setting: Setting) -> TextQuery:
    """A validated request for embeddings: a text query whose messages are the inputs.

    Raises:
        RequestError: See the catalogue.
        Unavailable: NO_NODE, where no node serves texts.
    """
    fields = Fields(body)
    inputs = fields.texts("input", MAX_INPUTS)
    if not inputs or not all(inputs):
        text = f"input must be one text or up to {MAX_INPUTS} texts, none of them empty; token ids are not taken."
        raise RequestError("FIELD_REQUIRED", text, field="input")
    needs, dimensions = {EMBEDDINGS}, fields.integer("dimensions", 1, MAX_DIMENSIONS)
    if dimensions is not None:
        needs.add(f"{EMBEDDINGS}:{dimensions}")
    query = _asked(fields, tuple(Message("user", text) for text in inputs), setting, chat=True).query
    parameters = GenerationParameters(max_tokens=1, embed=True)
    query = replace(query, parameters=parameters, needs=frozenset(needs), fusion=FusionChoice.NONE, whole=True)
    # Vectors are to be compared: they are everybody's model's, and nothing that was kept of a text shortens them.
    return replace(query, user="", prefix_scope="")


def _asked(fields: Fields, messages: tuple[Message, ...], setting: Setting, *, chat: bool) -> Asked:
    if setting.headers or not SELDOM.isdisjoint(fields.value):
        return _asked_fully(fields, messages, setting, chat=chat)
    # Most requests say nothing but who is to answer, what was said, and how long and how freely to answer.
    expert, allowance = from_model(fields.text("model", most_chars=256) or AUTO)
    parameters = AS_USUAL if PARAMETERS.isdisjoint(fields.value) else _parameters(fields, chat=chat)
    stream = fields.flag("stream")
    query = TextQuery(
        requests.fresh_id(),
        _task(None, expert, setting),
        expert,
        messages,
        parameters,
        allowance.budget,
        _deadline_s(allowance, setting),
        needs=_needs(messages, parameters),
        whole=not stream,
        prefix_scope=scope_of(setting.tenant, ""),
    )
    return Asked(query, chat, stream, False, False)


def _asked_fully(fields: Fields, messages: tuple[Message, ...], setting: Setting, *, chat: bool) -> Asked:
    """The same of any request."""
    said, headers = fields.value, setting.headers
    if not REFUSED.isdisjoint(said):
        _refuse_not_carried(fields)
    expert, allowance = from_model(fields.text("model", most_chars=256) or AUTO)
    allowance = from_body(fields.inner("budget")).over(from_headers(headers)).over(allowance)
    parameters = AS_USUAL if PARAMETERS.isdisjoint(said) else _parameters(fields, chat=chat)
    fusion, max_experts, continue_on_loss, samples = _fusion(fields)
    user = fields.text("user") or ""
    stream, n = fields.flag("stream"), _n(fields, setting)
    query = TextQuery(
        request_id=requests.request_id(_request_id(headers)),
        task=_task(fields.text("task", most_chars=64), expert, setting),
        expert=expert,
        messages=messages,
        parameters=parameters,
        budget=allowance.budget,
        deadline_s=_deadline_s(allowance, setting),
        fusion=fusion,
        max_experts=max_experts,
        continue_on_loss=continue_on_loss,
        needs=_needs(messages, parameters),
        allowed_nodes=_names(fields, setting, "allowed_nodes", requests.MAX_NODES),
        required_tags=_names(fields, setting, "required_tags", requests.MAX_TAGS),
        max_ttft_ms=allowance.max_ttft_ms,
        max_tpot_ms=allowance.max_tpot_ms,
        whole=not stream,
        user=user,
        prefix_scope=scope_of(setting.tenant, user),
    )
    if samples > 1:
        query = sampled(query, samples, once=n == 1 and not _request_id(headers))
    options = fields.inner("stream_options")
    return Asked(query, chat, stream, bool(options and options.flag("include_usage")), fields.flag("explain"), n)


def _needs(messages: tuple[Message, ...], parameters: GenerationParameters) -> frozenset[str]:
    """What an arm must be able to do."""
    needs = NO_NEEDS if parameters is AS_USUAL else requests.capabilities_needed(parameters)
    for message in messages:
        if message.extra_json or message.role in TOOL_ROLES:
            needs |= _needed_by(message)
    return needs


def _n(fields: Fields, setting: Setting) -> int:
    n = fields.integer("n", 1, MAX_CHOICES) or 1
    if n > 1 and _request_id(setting.headers):
        text = "n above 1 and an id of the request's own exclude each other: several answers cannot be repeated by id."
        raise RequestError("FIELD_OUT_OF_RANGE", text, field="n")
    return n


def _refuse_not_carried(fields: Fields) -> None:
    fields.integer("best_of", 1, 1)
    for name in NOT_CARRIED:
        if fields.value.get(name) not in (None, False, [], "", "none", ["text"]):
            raise RequestError("CAPABILITY_MISSING", f"{name} is not offered by this gateway.", field=name)


def _request_id(headers: Mapping[str, str]) -> str:
    return headers.get("x-edgewise-request-id") or headers.get("idempotency-key") or ""


def _task(wanted: str | None, expert: str | None, setting: Setting) -> Task:
    if wanted is None and expert is None and (usual := setting.tasks.get(DEFAULT_TASK)) is not None and usual.text:
        return usual
    if wanted is None and expert is not None and (found := setting.task_of(expert)) is not None:
        return setting.tasks[found]
    texts = {name: task for name, task in setting.tasks.items() if task.text}
    if wanted is not None:
        if wanted not in texts:
            raise RequestError("TASK_NOT_FOUND", "No node serves a text task of this name.", field="task")
        return texts[wanted]
    if not texts:
        raise Unavailable("NO_NODE", "No node that serves texts has joined yet; try again later.", retry_after_s=1.0)
    if expert is None:
        return texts[min(texts)]
    text = "No node has a model of this name; list them to see which there are."
    raise RequestError("EXPERT_NOT_FOUND", text, field="model")


def _deadline_s(allowance: Allowance, setting: Setting) -> float:
    """The call's own deadline: the latency that was asked for, else the longest; the gateway's budget may be less."""
    wanted_ms = allowance.budget.max_latency_ms
    return setting.max_deadline_s if wanted_ms is None else min(max(wanted_ms, 1.0) / 1e3, setting.max_deadline_s)


def _names(fields: Fields, setting: Setting, name: str, most: int) -> frozenset[str]:
    given = fields.texts(name, most)
    if not given:
        header = setting.headers.get(NAME_HEADERS[name])
        if header is None:
            return NO_NAMES
        given = tuple(part.strip() for part in header.split(",") if part.strip())
    return requests.named(name, given, most)


def _fusion(fields: Fields) -> tuple[FusionChoice, int, bool, int]:
    """Mode, most experts, whether those that are left go on where one is lost, and samples of one expert.

    Of our own block, else of the plug-in array that OpenRouter's clients send.
    """
    inner = fields.inner("fusion")
    if inner is None:
        for number, plugin in enumerate(fields.array("plugins", 16) or []):
            if isinstance(plugin, dict) and plugin.get("id") == "fusion":
                own = {key: plugin[key] for key in FUSION_KEYS if key in plugin}
                inner = Fields(own, f"plugins[{number}]")
    if inner is None:
        return FusionChoice.AUTO, 0, False, 1
    inner.only(*FUSION_KEYS)
    mode = FusionChoice(inner.choice("mode", FUSIONS) or "auto")
    samples = inner.integer("samples", 1, MAX_SAMPLES) or 1
    return mode, inner.integer("max_experts", 1, 8) or 0, inner.flag("continue_on_loss"), samples


def _parameters(fields: Fields, *, chat: bool) -> GenerationParameters:
    most = requests.MAX_TOKENS
    tokens = fields.integer("max_completion_tokens", 1, most) or fields.integer("max_tokens", 1, most)
    of_text = (
        tokens or requests.DEFAULT_MAX_TOKENS,
        fields.number("temperature", 0.0, 2.0),
        fields.number("top_p", 0.0, 1.0),
        fields.integer("seed", 0, 2**63 - 1),
        fields.texts("stop", requests.MAX_STOP),
    )
    if BEYOND_TEXT.isdisjoint(fields.value):
        return GenerationParameters(*of_text)
    return GenerationParameters(
        *of_text,
        tools_json=_json(fields.array("tools", MAX_TOOLS)),
        tool_choice_json=_choice_json(fields),
        response_format_json=_format_json(fields),
        top_logprobs=_top_logprobs(fields, chat=chat),
    )


def _top_logprobs(fields: Fields, *, chat: bool) -> int | None:
    """Chats ask with `logprobs` and `top_logprobs`, completions with a number."""
    if not chat:
        return fields.integer("logprobs", 0, MAX_COMPLETION_LOGPROBS)
    tops = fields.integer("top_logprobs", 0, requests.MAX_TOP_LOGPROBS)
    if fields.flag("logprobs"):
        return tops or 0
    if tops is not None:
        raise RequestError("FIELD_REQUIRED", "top_logprobs needs logprobs: true beside it.", field="logprobs")
    return None


def _json(value: Any) -> str:
    if not value:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise not_finite() from None


def _choice_json(fields: Fields) -> str:
    value = fields.value.get("tool_choice")
    if value is not None and not isinstance(value, str | dict):
        raise fields.wrong("tool_choice", "a text or an object")
    # Without tools there is nothing to choose from.
    return _json(value) if fields.value.get("tools") else ""


def _format_json(fields: Fields) -> str:
    inner = fields.inner("response_format")
    if inner is None or inner.choice("type", ("text", "json_object", "json_schema")) in (None, "text"):
        return ""
    return _json(inner.value)


# ---- messages


def _messages(fields: Fields) -> tuple[Message, ...]:
    given = fields.array("messages", requests.MAX_MESSAGES)
    if not given:
        raise RequestError("FIELD_REQUIRED", "messages must hold at least one message.", field="messages")
    messages = []
    for one in given:
        # Most messages: a role and a text, of which nothing can be wrong.
        if isinstance(one, dict) and len(one) == 2 and (role := one.get("role")) in TALKERS:
            content = one.get("content")
            if isinstance(content, str):
                messages.append(Message(role, content))
                continue
        messages.append(_message(fields, len(messages), one))
    for message in messages:
        if message.content or message.extra_json:
            return tuple(messages)
    raise RequestError("INVALID_TEXT", "messages must say something.", field="messages")


def _message(fields: Fields, number: int, given: Any) -> Message:
    path = f"messages[{number}]"
    if not isinstance(given, dict):
        raise fields.wrong(path, "an object with role and content")
    inner = Fields(given, path)
    role = inner.choice("role", ROLES)
    if role is None:
        raise RequestError("FIELD_REQUIRED", f"{path}.role must be one of {', '.join(ROLES)}.", field=f"{path}.role")
    content, parts = _content(inner)
    if parts is None and MESSAGE_EXTRAS.isdisjoint(given):
        return Message(role, content)
    extra = {key: given[key] for key in ("name", "tool_calls", "tool_call_id") if given.get(key) is not None}
    if parts is not None:
        extra["content"] = parts
    return Message(role, content, _json(extra))


def _content(inner: Fields) -> tuple[str, list[Any] | None]:
    """The text of a message, and its parts where some of them are no text."""
    content = inner.value.get("content")
    if content is None:
        return "", None
    if isinstance(content, str):
        return content, None
    if not isinstance(content, list) or len(content) > MAX_PARTS:
        raise inner.wrong("content", f"a text or a list of at most {MAX_PARTS} parts")
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content):
        raise inner.wrong("content", "a text or a list of parts with a type each")
    texts = [part.get("text") for part in content if part["type"] == "text"]
    if not all(isinstance(text, str) for text in texts):
        raise inner.wrong("content", "parts whose text is a text")
    plain = len(texts) == len(content)
    return "\n".join(str(text) for text in texts), None if plain else content


def _needed_by(message: Message) -> set[str]:
    needs = set()
    if '"content":' in message.extra_json and "content" in json.loads(message.extra_json):
        needs.add("images")
    if message.role in TOOL_ROLES or '"tool_calls":' in message.extra_json:
        needs.add("tools")
    return needs
