#!/bin/bash
# A node that lies: containerd starts this instead of the shim. It changes the bundle's config.json with the jq program in
# /etc/belljar/hostile/POD.CONTAINER.jq (CONTAINER is `sandbox` for the sandbox), where there is one, and goes on as the shim.
if [ "${!#}" = start ] && [ -f config.json ]; then
  name() { jq -r ".annotations[\"io.kubernetes.cri.$1\"] // \"$2\"" config.json; }
  program=/etc/belljar/hostile/$(name sandbox-name none).$(name container-name sandbox).jq
  if [ -f "$program" ] && jq -f "$program" config.json >.hostile; then
    mv .hostile config.json
  fi
fi
exec -a "${0%/*}/containerd-shim-belljar-software-v2" "${0%/*}/containerd-shim-belljar-software-v2" "$@"
