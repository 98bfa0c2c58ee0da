"""What other harnesses send to a server, recorded from the commands of docs/evaluation.md.

lm-evaluation-harness 0.4.13 sent the first two, inspect-ai 0.3.285 with openai 3.57.0 the third.
"""

from typing import Any

PROMPT = "What is 18 + 17? End with the number."
MESSAGES = [{"role": "user", "content": PROMPT}]

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {  # path and body
    "lm_eval, local-chat-completions": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "model": "mine", "max_tokens": 64, "temperature": 0.0, "stop": [],
         "seed": 1234},
    ),
    "lm_eval, local-completions": (
        "/v1/completions",
        {"prompt": PROMPT, "model": "mine", "max_tokens": 64, "temperature": 0.0, "stop": [],
         "seed": 1234},
    ),
    "inspect eval": (
        "/v1/chat/completions",
        {"model": "mine", "messages": MESSAGES, "max_tokens": 64, "temperature": 0.0},
    ),
}  # fmt: skip
