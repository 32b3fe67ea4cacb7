from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import InvalidArgument, TokenizerError
from engine.text.chat import ChatTemplate
from engine.text.tokenizer import Tokenizer
from tests.engine.checkpoints import (
    BOS_ID,
    CHATML_TEMPLATE,
    EOS_ID,
    IM_END_ID,
    IM_START_ID,
    byte_level_tokenizer,
    write_tokenizer,
)

LLAMA3_STYLE = """\
{{- bos_token }}
{%- set ns = namespace(system="You are helpful.") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|im_start|>system\n' + ns.system + '<|im_end|>' }}
{%- for message in messages %}
    {%- if tools is not none and loop.first %}
        {{- tools | tojson(indent=2) }}
    {%- endif %}
    {%- set content = '<|im_start|>' ~ message.role ~ '\\n\\n' ~ message.content | trim ~ '<|im_end|>' %}
    {{- content }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n\\n' }}
{%- endif %}
"""

MISTRAL_STYLE = """\
{{ bos_token }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate user/assistant, got ' + message.role) }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ '[INST] ' + message['content'] + ' [/INST]' }}
    {% else %}
        {{ message['content'].strip() ~ eos_token }}
    {% endif %}
{% endfor %}
"""

THINKING_STYLE = """\
{%- macro turn(role, content) %}
    {{- '<|im_start|>%s\n' % role }}{% generation %}{{ content }}{% endgeneration %}{{ '<|im_end|>\n' }}
{%- endmacro %}
{%- set last = namespace(index=messages | length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and not (message.content.startswith('<tool_response>')) and not last.found %}
        {%- set last.found = true %}
        {%- set last.index = messages | length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" and '</think>' in message.content %}
        {%- set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}
        {%- set answer = message.content.split('</think>')[-1].lstrip('\n') %}
        {%- if loop.index0 > last.index %}
            {{- turn('assistant', '<think>\n' + thought + '\n</think>\n\n' + answer) }}
        {%- else %}
            {{- turn('assistant', answer) }}
        {%- endif %}
    {%- else %}
        {{- turn(message.role, message.content) }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>' + call.function.name + call.function.arguments | tojson + '</tool_call>' }}
    {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

TEMPLATES = {"chatml": CHATML_TEMPLATE, "llama3": LLAMA3_STYLE, "mistral": MISTRAL_STYLE, "thinking": THINKING_STYLE}
TOKENIZER = Tokenizer(byte_level_tokenizer(), {"bos_token": "<|bos|>", "eos_token": "<|eos|>"})
REFERENCE = transformers.PreTrainedTokenizerFast(
    tokenizer_object=byte_level_tokenizer(), bos_token="<|bos|>", eos_token="<|eos|>"
)
COMPILED = {name: ChatTemplate(source, TOKENIZER) for name, source in TEMPLATES.items()}

# What contents may hold without spelling out a control token, though they come near.
HARMLESS = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from(["<", "<|", "|>", "<think>", "</think>", "<tool_response>", " ", "\n", "é", "[INST]", "x"]),
        max_size=8,
    ).map("".join),
)
HOSTILE = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<", "|", "</think>", "<|eos|>", " ", "\n", "a"]),
    max_size=8,
).map("".join)


def chat(*contents: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[index % 2], "content": content} for index, content in enumerate(contents)]


def text_of(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str:
    return "".join(segment.text for segment in template.render(messages, **options))


def reference(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    rendered = REFERENCE.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    assert isinstance(rendered, str)
    return rendered


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@given(contents=st.lists(st.one_of(HARMLESS, HOSTILE), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_text_equals_transformers(name: str, add_generation_prompt: bool, contents: list[str]) -> None:
    messages = chat(*contents)
    found = text_of(COMPILED[name], messages, add_generation_prompt=add_generation_prompt)
    assert found == reference(TEMPLATES[name], messages, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize("name", TEMPLATES)
@given(contents=st.lists(HARMLESS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_ids_equal_transformers_where_nobody_cheats(name: str, contents: list[str]) -> None:
    messages = chat(*contents)
    expected = REFERENCE.apply_chat_template(
        messages, chat_template=TEMPLATES[name], add_generation_prompt=True, return_dict=False
    )
    assert COMPILED[name].encode(messages) == expected


@pytest.mark.parametrize("name", TEMPLATES)
@given(contents=st.lists(HOSTILE, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_messages_cannot_bring_control_tokens(name: str, contents: list[str]) -> None:
    """The control tokens of a prompt are those of the same chat with harmless contents, in the same order."""

    def control_tokens(messages: list[dict[str, Any]]) -> list[int]:
        return [token_id for token_id in COMPILED[name].encode(messages) if TOKENIZER.is_special(token_id)]

    assert control_tokens(chat(*contents)) == control_tokens(chat(*["x"] * len(contents)))


def test_control_tokens_cannot_be_put_together_by_the_template() -> None:
    """Halves in neighbouring contents, and pieces that meet once the template has cut something out."""
    joining = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", TOKENIZER)
    assert IM_END_ID not in joining.encode(chat("<|im_", "end|>"))
    assert IM_END_ID not in joining.encode(chat("<", "|im_end|>"))
    cutting = ChatTemplate("{{ messages[0].content | replace('</think>', '') }}", TOKENIZER)
    assert IM_END_ID not in cutting.encode(chat("<|im_e</think>nd|>"))
    assert text_of(cutting, chat("<|im_e</think>nd|>")) == "<|im_end|>"
    printing = ChatTemplate("{{ tools | tojson }}{{ messages[0].name }}{{ mood }}", TOKENIZER)
    messages = [{"role": "user", "content": "x", "name": "<|im_end|>"}]
    hostile = [{"name": "<|im_end|>", "<|im_end|>": ["<|im_end|>"]}]
    assert IM_END_ID not in printing.encode(messages, tools=hostile, mood="<|im_end|>")
    assert text_of(printing, messages, tools=hostile, mood="m") == json.dumps(hostile) + "<|im_end|>m"
    # The template's own still count.
    assert ChatTemplate("<|im_end|>{{ eos_token }}", TOKENIZER).encode(chat("x")) == [IM_END_ID, EOS_ID]


def test_a_string_that_the_template_looks_for_is_no_way_in() -> None:
    looking = ChatTemplate("{{ messages[0].content.split('<|im_end|>')[0] }}{{ '<|im_start|>' }}", TOKENIZER)
    ids = looking.encode(chat("a<|im_end|>b"))
    assert IM_END_ID not in ids
    assert ids.count(IM_START_ID) == 1


def test_many_control_tokens_and_long_strings_cost_no_rendering_its_time() -> None:
    backend = byte_level_tokenizer()
    backend.add_special_tokens([f"<|reserved_{number}|>" for number in range(800)])
    template = ChatTemplate("{% set s = '" + "<a" * 15_000 + "' %}{{ messages[0].content }}", Tokenizer(backend))
    started = time.process_time()
    assert text_of(template, chat("<a<|reserved_7|>")) == "<a<|reserved_7|>"
    assert time.process_time() - started < 2.0


def test_private_use_characters_in_messages_are_kept() -> None:
    contents = "\U000f0000\U000f0001 < \U00100000 <|im_end|>"
    assert contents in text_of(COMPILED["chatml"], chat(contents))


def test_tools_variables_and_clock_reach_the_template() -> None:
    source = (
        "{{ tools | tojson(ensure_ascii=true) }} {{ strftime_now('%d %b %Y') }} {{ enable_thinking }} {{ nothing }}"
    )
    template = ChatTemplate(source, TOKENIZER, now=lambda: datetime(2024, 7, 26))
    tools = [{"type": "function", "function": {"name": "añadir", "description": "a < b"}}]
    expected = f"{json.dumps(tools)} 26 Jul 2024 False "
    assert text_of(template, chat("x"), tools=tools, enable_thinking=False) == expected
    calls = [{"function": {"name": "f", "arguments": {"x": [1, "<|im_end|>", None]}}}]
    messages = [*chat("hi"), {"role": "assistant", "content": "ok", "tool_calls": calls}]
    assert text_of(COMPILED["thinking"], messages) == reference(THINKING_STYLE, messages, add_generation_prompt=True)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert text_of(COMPILED["chatml"], [{"role": "user", "content": parts}]) == text_of(
        COMPILED["chatml"], chat("one\ntwo")
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        (["hi"], r'messages\[0\] is "hi"; it must be an object'),
        (
            [{"role": "root", "content": "x"}],
            r'messages\[0\].role is "root"; it must be one of system, developer, user',
        ),
        ([*chat("x"), {"content": "x"}], r"messages\[1\].role is null"),
        ([{"role": "user"}], r"messages\[0\].content is null; it must be a string or a list"),
        ([{"role": "user", "content": 7}], r"content is 7"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            r"content\[0\] is .*image_url.*only text is supported",
        ),
        ([{"role": "user", "content": "x", "mood": "y"}], r'messages\[0\] has "mood"; allowed are role, content, name'),
        ([{"role": "user", "content": "x", "name": {"a": object()}}], "a object is in messages.*only JSON values"),
        ([{"role": "user", "content": "x", "name": {1: 2}}], "1 is a key in messages.*must be strings"),
        ([{"role": "user", "content": "a\ud800"}], "half of a surrogate pair"),
        ([*chat("a"), *chat("b")], "refuses these messages: roles must alternate user/assistant, got user"),
    ],
)
def test_bad_messages_are_explained(messages: list[Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        COMPILED["mistral"].encode(messages)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ messages | map(attribute='__class__') | first }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__closure__[0].cell_contents }}",
    "{{ strftime_now('%1000000000d') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{{ messages | attr('__class__') }}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler.__init__ }}{{ cycler.__init__.__globals__ }}",
    "{{ loop.__class__ }}{% for m in messages %}{{ loop.__class__.__init__ }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func.__globals__ }}",
]
HOGS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(999999999) %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "{{ 'x' * 999999999999 }}",
    "{{ ['x'] * 999999999 }}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = '%s%s' % (n.s, n.s) %}{% endfor %}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = [n.s, n.s] | join %}{% endfor %}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set n.s = n.s | replace('x', 'xx') %}{% endfor %}",
    "{% set n = namespace(s='xx') %}{% for a in range(60) %}{% set t %}{{ n.s }}{{ n.s }}{% endset %}"
    "{% set n.s = t %}{% endfor %}",
    "{% set n = namespace(s=['x']) %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s=['x']) %}{% for a in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "{% set n = namespace(s=['x']) %}{% for a in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | tojson }}",
    "{% set n = namespace(s=['x']) %}{% for a in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s | string }}",
    "{% set l = range(99) | list %}" + "{% for a in l %}" * 8 + "{% endfor %}" * 8,
    "{{ ('x' * 99999).replace('x', 'y' * 999999) }}",
    "{{ ('x' * 99999) | replace('x', 'y' * 999999) }}",
    "{{ ('x' * 999999).join(range(99999) | map('string')) }}",
    "{{ range(99999) | join('x' * 999999) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set n = namespace(i=9) %}{% for a in range(60) %}{% set n.i = n.i * n.i %}{% endfor %}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (999999999, 1) }}",
    "{{ messages | tojson(indent=999999999) }}",
    "{{ 'x' | indent(999999999) }}",
    "{{ 'x' | center(999999999) }}",
    "{{ 'x'.ljust(999999999) }}",
    "{{ 1.5 | round(999999999) }}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(200) }}",
    "{% macro f() %}" + "x" * 200_000 + "{% endmacro %}{% set n = namespace(s='') %}"
    "{% for a in range(99999) %}{% set n.s = f() %}{{ f() }}{% endfor %}",
    "{% set t %}{% for a in range(99999) %}" + "x" * 200_000 + "{% endfor %}{% endset %}",
    "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% block b %}{{ self.b() }}{% endblock %}",
    "{{ range(99999) | list | tojson * 99999 }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "x" * 300_000,
]


TWICE = "{% set a = [0] %}{% set b = [0] %}" + "{% set a = [a, a] %}{% set b = [b, b] %}" * 30
TUPLES = "{% set a = (0,) %}" + "{% set a = (a, a) %}" * 30
LONG = "{% set x = 'x' * 8000000 %}"
# What C code would do in one go, so that neither the clock nor another thread could come between: it is refused before.
AT_ONCE = [
    "{% for i in [1] | _each(-10000000000) %}{% endfor %}",
    "{% for i in [[1]] | map('_each', 'nan' | float) %}{% for j in i %}{% endfor %}{% endfor %}",
    TWICE + "{{ a == b }}",
    TWICE + "{% if a in [b] %}{% endif %}",
    TWICE + "{{ a is eq b }}",
    TWICE + "{{ [a] | select('eq', b) | list }}",
    TWICE + "{{ [a].index(b) }}",
    TWICE + "{{ [a, b] | sort }}",
    TWICE + "{{ a | upper }}",
    TWICE + "{{ raise_exception(a) }}",
    TWICE + "{{ dict(a=a).items() }}",
    TWICE + "{{ namespace(a=a) }}",
    TUPLES + "{{ {a: 1} }}",
    TUPLES + "{{ {}[a] }}",
    TUPLES + "{{ {}.get(a) }}",
    TUPLES + "{% macro m() %}{{ {varargs: 1} }}{% endmacro %}{{ m(a, a) }}",
    "{% set n = namespace(t=()) %}{% for i in range(90000) %}{% set n.t = (n.t,) %}{% endfor %}{{ {n.t: 1} }}",
    "{% set y = range(3000) | list %}{{ y + [1] in range(9999) | map(attribute='q', default=y) }}",
    "{{ ('%(a)s' * 9999) % {'a': 'x' * 99999} }}",
    "{{ '%(a)999999999s' % {'a': 1} }}",
    "{{ '%999999999d' is odd }}",
    "{% set l = range(2000) | list %}{{ [" + "l," * 2000 + "] | sum(start=[]) }}",
    "{% set a = [0] %}" + "{% set a = [a] %}" * 90 + "{{ [" + "a," * 999 + "] | tojson(indent=16) }}",
    "{{ range(9999) | list | tojson(separators=('x' * 999999, ':')) }}",
    LONG + "{% set l = [" + "x[1:]," * 200 + "] %}",
    LONG + "{{ x.strip('y' * 99999 + 'x') }}",
    LONG + "{{ x | trim('y' * 99999 + 'x') }}",
    LONG + "{{ x.rsplit(sep='xy' + 'x' * 99999) }}",
    "{{ ('1' * 8000000) | int(base=2) // 3 }}",
    "{{ (5).to_bytes(9999999999, 'big') }}",
    "{% macro " + "m" * 99999 + "() %}{% endmacro %}{% set m = " + "m" * 99999 + " %}{{ [" + "m," * 999 + "] }}",
]


@pytest.mark.parametrize("source", ESCAPES, ids=range(len(ESCAPES)))
def test_templates_cannot_reach_outside(source: str) -> None:
    try:
        rendered = text_of(ChatTemplate(source, TOKENIZER), chat("x"))
    except InvalidArgument:
        return
    assert rendered == "", "an attribute that is not offered may at most read as undefined"


@pytest.mark.parametrize("source", HOGS, ids=range(len(HOGS)))
def test_templates_cannot_hang_or_fill_memory(source: str) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidArgument) as caught:
        text_of(ChatTemplate(source, TOKENIZER), chat("x"))
    assert not isinstance(caught.value.__cause__, MemoryError), "noticed by the machine, not by the budget"
    assert time.perf_counter() - started < 10.0


@pytest.mark.parametrize("source", AT_ONCE, ids=range(len(AT_ONCE)))
def test_nothing_large_is_made_or_walked_before_it_is_paid_for(source: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidArgument) as caught:
        text_of(ChatTemplate(source, TOKENIZER), chat("x"))
    assert not isinstance(caught.value.__cause__, MemoryError), "noticed by the machine, not by the budget"
    assert "ran for more than" not in str(caught.value)
    assert time.process_time() - started < 2.0


def test_what_is_paid_for_works_as_in_transformers() -> None:
    source = """\
{% set pairs = {'b': [1, 2], 'a': (3, 4)} %}{% set n = namespace(list=[], x=messages[0].content[::-1]) %}
{% for key, value in pairs.items() %}{% set n.list = n.list + [[key, value]] %}{{ loop.cycle('-', '+') }}{% endfor %}
{{ n.list }} {{ n.x }} {{ pairs['a'] == (3, 4) }} {{ pairs.b is eq [1, 2] }} {{ 7 - 2 is odd }} {{ 6 is divisibleby 3 }}
{{ [3, 1, 2] | sort }} {{ [3, 1.5] | sum }} {{ [{'x': 1}, {'x': 2}] | sum(attribute='x') }} {{ [1, 2] | max }}
{{ ' x ' | trim }}|{{ 'xyx' | trim('x') }} {{ 'a.b.c'.rsplit('.', 1) }} {{ 1 < 2 < 3 }} {{ 'b' in pairs }}
{{ pairs | dictsort }} {{ pairs | tojson(separators=(',', ':')) }} {{ pairs.b | tojson(indent=2) }}
{{ '%5.1f%s' % (2, 'x') }} {{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}
{{ range(3) | list | unique | list }} {{ messages[1:] }} {{ messages[-1]['role'] ~ [1] }}
{{ dict(pairs, c=1).keys() | list }} {{ 'a' in ['a', 'b'] }} {{ none }}
"""
    messages = chat("abc", "def")
    assert text_of(ChatTemplate(source, TOKENIZER), messages) == reference(source, messages)


def test_a_long_honest_chat_fits_the_budget() -> None:
    contents = [f"message {index} " + "lorem ipsum < dolor " * 40 for index in range(2000)]
    for name, template in COMPILED.items():
        messages = chat(*contents)
        assert text_of(template, messages) == reference(TEMPLATES[name], messages, add_generation_prompt=True)
    assert len(text_of(COMPILED["chatml"], chat("x<" * 1_000_000))) > 2_000_000


def test_syntax_errors_name_the_line() -> None:
    with pytest.raises(TokenizerError, match="chat template, line 2"):
        ChatTemplate("{% if true %}\n{% oops %}", TOKENIZER)


def test_mistakes_in_a_template_are_explained() -> None:
    with pytest.raises(InvalidArgument, match="fails on these messages: UndefinedError"):
        ChatTemplate("{{ messages[0].mood.level }}", TOKENIZER).render(chat("x"))


def test_templates_are_found_where_models_keep_them(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
    template = ChatTemplate.load(tmp_path, tokenizer)
    assert template.encode(chat("hi")) == COMPILED["chatml"].encode(chat("hi"))

    settings_path = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": "d{{ bos_token }}"}, {"name": "tool_use", "template": "t"}]
    values = {**json.loads(settings_path.read_text()), "chat_template": named}
    settings_path.write_text(json.dumps(values))
    assert text_of(ChatTemplate.load(tmp_path, tokenizer), chat("hi")) == "d<|bos|>"
    assert ChatTemplate.load(tmp_path, tokenizer).encode(chat("hi"))[-1] == BOS_ID
    assert text_of(ChatTemplate.load(tmp_path, tokenizer, name="tool_use"), chat("hi")) == "t"
    with pytest.raises(TokenizerError, match=r"no chat template named rag \(named here: default, tool_use\)"):
        ChatTemplate.load(tmp_path, tokenizer, name="rag")

    (tmp_path / "chat_template.jinja").write_text("file")
    assert text_of(ChatTemplate.load(tmp_path, tokenizer), chat("hi")) == "file"
    (tmp_path / "chat_template.jinja").unlink()
    settings_path.unlink()
    with pytest.raises(TokenizerError, match="has no chat template"):
        ChatTemplate.load(tmp_path, tokenizer)


def test_tokenizers_without_control_tokens_work_too() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    backend.train_from_iterator([], trainer)
    template = ChatTemplate("{{ messages[0].content }}<|im_end|>", Tokenizer(backend))
    assert text_of(template, chat("a <|im_end|> b")) == "a <|im_end|> b<|im_end|>"
    assert len(template.encode(chat("a"))) == 11
