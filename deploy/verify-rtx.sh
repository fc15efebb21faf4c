#!/bin/sh
# Verifies TensorRT on a PC with an RTX GPU: 100 outputs of each engine beside ONNX Runtime's (at most 0.01 apart in half
# precision), milliseconds, and joules from NVML. All goes into one JSON, which `edgewise profile import` makes a
# device profile of.
#
#   deploy/verify-rtx.sh [OPTIONS of `edgewise node verify`]      or      ssh me@host sh -s < deploy/verify-rtx.sh
#
# Needs the extras `rtx`, `compile` and `gpu` beside Edgewise.
# No engine has been executed by us: this has run only with stand-ins for the GPU.
set -eu
edgewise=${EDGEWISE:-$(command -v edgewise || echo "$HOME/.local/share/edgewise/current/bin/edgewise")}
if [ ! -x "$edgewise" ]; then
    echo "verify-rtx: there is no edgewise in PATH and no $edgewise; push it there first, or name one in EDGEWISE" >&2
    exit 4
fi
exec "$edgewise" node verify --form rtx-fp16 --energy nvml \
    --to "edgewise-rtx-$(uname -n).json" "$@"
