"""The node agent: experts, the engines that run them, the meters that charge them, and the stream to the gateway."""

import os

# ONNX Runtime's Linux packages report usage to their maker unless told not to; nothing leaves a node unasked.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
