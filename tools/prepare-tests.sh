#!/usr/bin/env bash
# Makes what the tests look at, once, below target/test: the guest image, its modules as files, QEMU 11 for its parser of TDX
# arguments, a Python with independent implementations. Prints the environment that tells the tests where these are.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/target/x86_64-unknown-linux-gnu/release
test=$PWD/target/test
mkdir -p "$test"

BELLJAR_DATA=$test/data "$bin/belljar" guest build >&2
guest=$(realpath "$test/data/guest/current")

parts=$test/guest-parts
rm -rf "$parts" && mkdir -p "$parts"
ln -s "$guest/vmlinux" "$parts/vmlinux"
(cd "$parts" && cpio -id --quiet 'lib/modules/*' <"$guest/initrd" && mv lib/modules mods && rmdir lib)

guest/fetch-qemu-tdx.sh >&2

python=$test/venv/bin/python
if ! "$python" -c 'import jwcrypto' 2>/dev/null; then
  python3 -m venv "$test/venv"
  "$test/venv/bin/pip" install --quiet --disable-pip-version-check jwcrypto==1.5.6 >&2
fi

cat <<EOF
export BELLJAR_GUEST=$guest
export BELLJAR_BOOT_TEST=$parts
export BELLJAR_AGENT=$bin/belljar-agent
export BELLJAR_TEST_VMLINUX=$guest/vmlinux
export BELLJAR_TEST_OVERLAY_KO=$parts/mods/overlay.ko
export BELLJAR_PYTHON=$python
EOF
