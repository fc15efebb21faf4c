"""Stand-ins for a GPU: TensorRT's interface on ONNX Runtime, CUDA's runtime on the memory of the host."""
