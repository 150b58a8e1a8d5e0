# What the scripts share: where things are, how a step reports itself, how a failure reads. Sourced, never run.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HHNET_ROOT=$root
ros_dir=${HHNET_ROS_DIR:-$root/.ros}
# Seconds between signs of life of a long step.
heartbeat_s=20

# Everything a script has to say goes to stderr: stdout belongs to the program it ends in.
say() { printf '%s\n' "$*" >&2; }

# Ends the script with one sentence that names the trouble and the remedy.
fail() {
  say "hhnet: $*"
  exit 1
}

trap 'fail "interrupted; run it again to go on."' INT TERM

# step NAME LOG COMMAND...: runs a command with its output in LOG, says how long it took, and shows the end of LOG if it
# failed. Its status is the command's. The command stays in the foreground: Ctrl-C must reach it.
step() {
  local name=$1 log=$2 start=$SECONDS status=0 lifeline
  shift 2
  mkdir -p "$(dirname "$log")"
  : >"$log"
  show_life "$name" "$log" &
  lifeline=$!
  ("$@") >"$log" 2>&1 || status=$?
  kill "$lifeline" 2>/dev/null || true
  wait "$lifeline" 2>/dev/null || true
  if [ "$status" -eq 0 ]; then
    say "$(printf '%-44s %4d s' "$name" $((SECONDS - start)))"
  else
    say "$(printf '%-44s FAILED after %d s; the end of %s:' "$name" $((SECONDS - start)) "$log")"
    tail -n 40 "$log" | sed 's/^/    /' >&2
  fi
  return "$status"
}

# Repeats the last line of a step's log until it is killed, or the script is gone.
show_life() {
  local name=$1 log=$2 waited=0
  while sleep 1 && kill -0 $$ 2>/dev/null; do
    waited=$((waited + 1))
    if [ $((waited % heartbeat_s)) -eq 0 ]; then
      say "$(printf '  %-42s %4d s  %s' "$name" "$waited" "$(newest_line "$log")")"
    fi
  done
}

newest_line() { tail -n 20 "$1" | tr -d '\r' | awk 'NF { line = $0 } END { print substr(line, 1, 70) }'; }

# without_network LOG: whether a step failed for want of a network, as pip, apt and cargo put it.
without_network() {
  grep -qE -f - "$1" <<'EOF'
NewConnectionError|NameResolution|ConnectTimeout|Max retries|ProxyError|from versions: none
Temporary failure resolving|Could not resolve|Could not connect to|Unable to connect to|Connection timed out|Cannot initiate the connection
failed to download|Couldn't connect to server|Failed to connect to|network failure|spurious network error|Unable to update registry
EOF
}

# Puts the environment of `scripts/setup` over this shell's.
load_environment() {
  [ -r "$ros_dir/env.sh" ] || fail "nothing is set up yet: run scripts/setup."
  # shellcheck disable=SC1091
  source "$ros_dir/env.sh"
}
