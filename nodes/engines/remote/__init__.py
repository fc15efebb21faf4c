"""A running OpenAI-compatible server (Ollama, llama-server, vLLM, ...) as an engine."""
