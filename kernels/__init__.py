"""Computing kernels: one folder per operation, each with a reference that is easy to read and code that is fast."""
