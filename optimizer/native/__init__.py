"""Compiled inner loops: C beside its bindings. What is not built raises `NativeMissing`, nothing falls back."""
