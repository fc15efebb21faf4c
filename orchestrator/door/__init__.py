"""The gateway's HTTP door: OpenAI's API for texts, the Open Inference Protocol for tensors."""
