"""The architectures that fused kernels cover."""

FUSED = ("llama", "mistral", "qwen2", "qwen2, windows", "qwen3", "gemma")
