# Looks around on a machine, changes nothing. Prints KEY=VALUE lines; `python=VERSION PATH` once per interpreter.
# $1: an interpreter that the user named, or nothing.
data="${XDG_DATA_HOME:-$HOME/.local/share}/edgewise"
printf 'system=%s\nmachine=%s\nhost=%s\nhome=%s\nuser=%s\nuid=%s\n' \
  "$(uname -s)" "$(uname -m)" "$(uname -n)" "$HOME" "$(id -un)" "$(id -u)"
printf 'data=%s\nconfig=%s\n' "$data" "${XDG_CONFIG_HOME:-$HOME/.config}"
# A session of ssh may lack what systemctl needs to find the user's manager.
[ -n "${XDG_RUNTIME_DIR:-}" ] || export XDG_RUNTIME_DIR="/run/user/$(id -u)"
[ -d /run/systemd/system ] && printf 'systemd=system\n'
systemctl --user show-environment >/dev/null 2>&1 && printf 'systemd=user\n'
printf 'linger=%s\n' "$(loginctl show-user "$(id -un)" -p Linger --value 2>/dev/null)"
for group in energy video render; do
  getent group "$group" >/dev/null 2>&1 && printf 'group=%s\n' "$group"
done
for name in "$1" python3 python3.11 python3.12 python3.13 python3.14 /usr/local/bin/python3 /opt/edgewise/python/*/python/bin/python3 \
  "$data"/python/*/python/bin/python3 "$HOME"/.pyenv/versions/*/bin/python3 "$HOME"/.local/share/uv/python/*/bin/python3; do
  [ -n "$name" ] && found="$(command -v "$name" 2>/dev/null)" || continue
  version="$("$found" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)" &&
    printf 'python=%s %s\n' "$version" "$found"
done
exit 0
