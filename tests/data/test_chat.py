"""Chat templates: what they see, which of them is taken, and what bounds them."""

import subprocess
import sys
import time
from typing import Any

import pytest

from llmjax.data.tokenizers.chats import conversation, rendering

USER = [{"role": "user", "content": "Größe?"}]


def render(template: str, messages: Any = USER, **options: Any) -> str:
    return conversation.render(
        {"default": template}, {"eos": "</s>"}, messages, **options
    )


def test_tools_and_documents_are_none_when_there_are_none() -> None:
    seen = "{% if tools is not none %}tools{% endif %}{{ documents is none }}"
    assert render(seen) == "True"
    assert render(seen, tools=[], documents=[]) == "toolsFalse"
    assert render("{{ tools[0].name }}", tools=[{"name": "f"}]) == "f"
    assert render("{{ enable_thinking is defined }}") == "False"
    assert render("{{ eos_token }}", eos_token="other") == "other"


def test_the_template_that_is_taken() -> None:
    templates = {"default": "plain", "tool_use": "tools", "rag": "documents"}

    def taken(**options: Any) -> str:
        return conversation.render(templates, {}, USER, **options)

    assert taken() == "plain"
    assert taken(tools=[]) == taken(tools=[{}]) == "tools"
    assert taken(template="rag", tools=[]) == "documents"
    with pytest.raises(ValueError, match="no chat template 'x'; .* 'tool_use', 'rag'"):
        taken(template="x")
    with pytest.raises(ValueError, match="no chat template 'default'"):
        conversation.render({"rag": ""}, {}, USER)
    with pytest.raises(ValueError, match="has no chat template; write"):
        conversation.render({}, {}, USER)


def test_json_is_written_as_templates_ask_for_it() -> None:
    value = {"b": "<é>", "a": [1]}
    assert render("{{ x | tojson }}", x=value) == '{"b": "<é>", "a": [1]}'
    forms = {
        "ensure_ascii=True": '{"b": "<\\u00e9>", "a": [1]}',
        "separators=(',', ':')": '{"b":"<é>","a":[1]}',
        "sort_keys=true": '{"a": [1], "b": "<é>"}',
        "indent=1": '{\n "b": "<é>",\n "a": [\n  1\n ]\n}',
        "ensure_ascii=False, separators=[',', ':'], sort_keys=True": (
            '{"a":[1],"b":"<é>"}'
        ),
    }
    for arguments, text in forms.items():
        assert render(f"{{{{ x | tojson({arguments}) }}}}", x=value) == text


def test_the_model_s_own_text_may_be_marked() -> None:
    template = (
        "{% set x = 1 %}{% for m in messages %}{%- generation -%} {% set x = 2 %}"
        "{{ m.role }}{{ x }} {%- endgeneration -%} {% endfor %}{{ x }}"
    )
    assert render(template) == "user21"


def test_messages_lose_what_is_none_and_have_their_reasoning_by_each_name() -> None:
    message = {"role": "assistant", "content": None, "reasoning": "hm"}
    names = "{{ messages[0].keys() | sort | join(' ') }}"
    assert render(names, [message]) == "reasoning reasoning_content role thinking"
    said = {"reasoning_content": "a", "thinking": "b"}
    both = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}"
    assert render(both, [said]) == "ab"


def test_namespaces_loops_and_errors_as_in_transformers() -> None:
    counting = (
        "{% set ns = namespace(n=0, self=1) %}{% for i in range(9) %}"
        "{% if i == 5 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}"
        "{{ ns.n }}{{ dict(a=1).a }}"
    )
    assert render(counting) == "101"
    with pytest.raises(ValueError, match=r"'default' fails: user first \(line 2\)"):
        render("{% if 1 %}\n{{ raise_exception('user first') }}{% endif %}")
    year = time.strftime("%Y")
    assert render("{{ strftime_now('%Y') }}") in {year, str(int(year) + 1)}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (["hello"], "message 0 is a str; accepted: a dict"),
        ([{"role": {1, 2}}], "json can say: it holds a set; accepted"),
        ([{"role": print}], "of a function its JSON schema"),
        ([{"content": {(1, 2): 3}}], "keys must be"),
    ],
)
def test_what_is_no_conversation(messages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render("", messages)


LOOP = "{% for i in range(99999) %}"
HOSTILE = {
    "format": "{{ '%0999999999d' % 1 }}",
    "method": "{{ '{:>999999999}'.format(1) }}",
    "loops": LOOP * 2 + "{% endfor %}" * 2,
    "indent": "{{ {'a': [1]} | tojson(indent=10**9) }}",
    "doubling": (
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
    ),
    "doubled list": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}"
    ),
    "macro": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "two macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}"
        "{% endmacro %}{{ f(60) }}"
    ),
    "recursion": "{% for x in [[[]]] recursive %}{{ loop([x]) }}{% endfor %}",
    "parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "signs": "{{ " + "-" * 20_000 + "1 }}",
    "ifs": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "fors": "{% for i in [1] %}" * 200 + "{% endfor %}" * 200,
    "product": "{{ 'x' * 10**10 }}",
    "filter": "{{ 'a' | center(10**9) }}",
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "length": LOOP + "x" * 300 + "{% endfor %}",
    "path": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "namespace": "{% set ns = namespace(__class__=1) %}",
    "change": "{{ messages.append(1) }}",
    "file": "{% include '/etc/passwd' %}",
    "range": "{{ range(10**9) }}",
    "division": "{{ 1 / 0 }}",
    "key": "{{ {}['a']['b'] }}",
    "type": "{{ 'a' + 1 }}",
    "call": "{{ raise_exception() }}",
    "value": "{{ '%q' % 1 }}",
    "syntax": "{% if %}",
    "tag": "{% generation %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_a_value_error_in_bounds(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match="^the chat template 'default' fails: .") as e:
        render(HOSTILE[name])
    assert "\n" not in str(e.value) and len(str(e.value)) < 500
    assert time.monotonic() - start < 50  # 1 of them computing
    assert render("{{ messages[0].role }}") == "user"


def test_the_process_is_used_again_and_stays_in_its_memory() -> None:
    assert render("{{ 1 }}") == "1"
    first = rendering._process
    assert first is not None
    for i in range(20):
        assert render("{{ x }}", x=i) == str(i)
    with pytest.raises(ValueError, match="no"):
        render("{{ raise_exception('no') }}")
    assert rendering._process is first
    with pytest.raises(ValueError, match="more memory"):
        render(HOSTILE["doubling"])
    assert first.poll() is not None


FORK = """
import os
from llmjax.data.tokenizers.chats.rendering import render

print(render("{{ x }}", {"x": 1}), flush=True)
child = os.fork()
print(render("{{ x }}", {"x": 3 if child else 2}), flush=True)
if child:
    os.waitpid(child, 0)
    print(render("{{ x }}", {"x": 4}))
"""


def test_a_fork_has_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True)
    assert (sorted(done.stdout.split()), done.stderr) == (["1", "2", "3", "4"], "")


def test_an_interrupted_answer_is_not_the_next_one_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rendering.select, "select", interrupt)
        with pytest.raises(KeyboardInterrupt):
            render("first")
    assert render("second") == "second"
    rendering.close()
    assert render("third") == "third"


def test_a_text_of_many_letters_comes_back_whole() -> None:
    """More than a pipe holds, characters of each size, half a pair of two."""
    text = "a\n\u2028é漢🙂\ud800" * 40_000
    assert render("{{ messages[0].content }}", [{"content": text}]) == text
