"""Chat templates with the rules of the model families that rlpost meets, each written small.

Every template is for the byte tokenizer, whose ``<|im_start|>`` and ``<|im_end|>`` they use.
"""

_TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
_ANSWER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

# Tools as JSON in the system turn, calls and results in turns of their own (Qwen, Hermes).
TOOLS_IN_SYSTEM = (
    "{% if tools %}<|im_start|>system\nYou may call:"
    "{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}"
    "{% if m.tool_calls %}<|im_start|>assistant\n{{ m.content }}"
    "{% for call in m.tool_calls %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>{% endfor %}<|im_end|>\n"
    "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _ANSWER
)

# Only the first tool reaches the text: a template with a mistake.
FIRST_TOOL_ONLY = TOOLS_IN_SYSTEM.replace("for tool in tools", "for tool in tools[:1]")

# No system role, user and assistant in turns (Gemma, Mistral).
STRICT_TURNS = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}"
    "{% endif %}" + _TURN + "{% endfor %}" + _ANSWER
)

# A system message anywhere but first is refused (Qwen3); a role without a name of its own, which
# only some rows have, is a lookup that fails.
SYSTEM_FIRST = (
    "{% for m in messages %}{% if m['role'] == 'developer' %}{{ names.developer }}{% endif %}"
    "{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    + _TURN
    + "{% endfor %}"
    + _ANSWER
)

# Content is a list of parts (models that also read images): a string has none, and vanishes.
PARTS_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}" + _ANSWER
)

# A template that fails in each way that a template can.
FAILS_IN = {
    "TypeError": "{{ messages[0]['content'] + 1 }}",
    "ZeroDivisionError": "{{ 1 / 0 }}",
    "UndefinedError": "{{ messages[7]['content'] }}",
    "KeyError": "{{ '{x}'.format() }}",
    "RecursionError": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "SecurityError": "{{ messages.append(1) }}",
    "TemplateSyntaxError": "{% for %}",
    "ValueError": "{{ 'x'.index('y') }}",
    "OverflowError": "{{ range(10**9) | list }}",
    "AttributeError": "{{ 3 | dictsort }}",
}
