#!/bin/sh
# Joins the gateway once, when this node has no identity yet; then runs the agent in the place of this shell.
# EDGEWISE_JOIN_URL is https://HOST:8420; the token is in EDGEWISE_NODE_TOKEN, or in the file EDGEWISE_NODE_TOKEN_FILE.
set -eu
if [ ! -e "$EDGEWISE_NODE_IDENTITY/node.pem" ]; then
  if [ -z "${EDGEWISE_NODE_TOKEN:-}" ] && [ -r "${EDGEWISE_NODE_TOKEN_FILE:-}" ]; then
    EDGEWISE_NODE_TOKEN="$(cat "$EDGEWISE_NODE_TOKEN_FILE")"
    export EDGEWISE_NODE_TOKEN
  fi
  if [ -z "${EDGEWISE_JOIN_URL:-}" ] || [ -z "${EDGEWISE_NODE_TOKEN:-}" ]; then
    echo "error: not joined yet; no EDGEWISE_JOIN_URL or no token; on the gateway: edgewise token create" >&2
    exit 2
  fi
  edgewise node join "$EDGEWISE_JOIN_URL" --identity "$EDGEWISE_NODE_IDENTITY" --no-run
fi
unset EDGEWISE_NODE_TOKEN EDGEWISE_NODE_TOKEN_FILE
exec edgewise node run "$@"
