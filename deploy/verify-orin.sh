#!/bin/sh
# Verifies TensorRT on a Jetson: 100 outputs of each engine beside ONNX Runtime's (at most 0.01 apart in half
# precision), milliseconds, and joules from the board's rails. All goes into one JSON, which `edgewise profile import`
# makes a device profile of.
#
#   deploy/verify-orin.sh [OPTIONS of `edgewise node verify`]      or      ssh me@host sh -s < deploy/verify-orin.sh
#
# JetPack's TensorRT belongs to its own Python (python3-libnvinfer, python3-numpy); EDGEWISE_GPU_PYTHON names another.
# No engine has been executed by us: this has run only with stand-ins for the GPU.
set -eu
edgewise=${EDGEWISE:-$(command -v edgewise || echo "$HOME/.local/share/edgewise/current/bin/edgewise")}
if [ ! -x "$edgewise" ]; then
    echo "verify-orin: there is no edgewise in PATH and no $edgewise; push it there first, or name one in EDGEWISE" >&2
    exit 4
fi
exec "$edgewise" node verify --form tensorrt-fp16 --gpu-python "${EDGEWISE_GPU_PYTHON:-/usr/bin/python3}" --energy jetson \
    --to "edgewise-orin-$(uname -n).json" "$@"
