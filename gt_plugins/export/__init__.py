"""From safetensors to GGUF: the merge, the conversion, and llama.cpp's own word on both."""
