"""``rlpost serve``: one base and many adapters behind vLLM's OpenAI-compatible server."""
