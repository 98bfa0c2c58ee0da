"""A stand-in for SGLang, found by interpreters that are told to look here; see launch_server.py."""
