#!/usr/bin/env bash
# Ends the cluster: its first process, so that the kernel ends all the rest; then removes its cgroups and its state. Nothing to do is no
# error. KEEP=1 leaves the state folder (logs).
set -uo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"
pid=$(cat "$K8S_RUN/pid" 2>/dev/null)
outer=$(cat "$K8S_RUN/pid.outer" 2>/dev/null)
gone() { for _ in $(seq "$2"); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done; return 1; }
if [ -n "$pid" ] && grep -q node.sh "/proc/$pid/cmdline" 2>/dev/null; then
  kill -TERM "$pid"
  gone "$pid" 30 || kill -KILL "$pid" 2>/dev/null
  gone "${outer:-$pid}" 50
fi
if [ -f "$K8S_RUN/cgroups" ]; then
  while read -r cgroup; do
    for _ in $(seq 20); do
      [ -d "$cgroup" ] || break
      find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.1
    done
    [ ! -d "$cgroup" ] || echo "down: $cgroup is still in use" >&2
  done <"$K8S_RUN/cgroups"
fi
rm -f "$K8S_RUN/pid" "$K8S_RUN/pid.outer"
[ -n "${KEEP:-}" ] || rm -rf "$K8S_RUN"
