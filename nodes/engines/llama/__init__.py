"""llama.cpp's server as an engine: one supervised child process for each GGUF file."""
