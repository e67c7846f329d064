#!/usr/bin/env python3
"""`belljar measure snp` against `sev-snp-measure` as whole processes, in turn, on the guest image's own kernel and initrd.

Usage: tools/bench-measure.py BELLJAR GUEST_IMAGE [ROUNDS]. The peer is in the virtual environment that the tests of
crates/measure make below ~/.cache/belljar.
"""
import glob
import os
import statistics
import subprocess
import sys
import time

belljar, guest = sys.argv[1], os.path.realpath(sys.argv[2])
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 9
peers = glob.glob(os.path.expanduser("~/.cache/belljar/venv-sev-snp-measure-*/bin/python"))
if not peers:
    sys.exit("sev-snp-measure is not there: run `cargo nextest run -p belljar-measure --test peers` once")
files = ["--ovmf", f"{guest}/OVMF.amdsev.fd", "--kernel", f"{guest}/vmlinuz", "--initrd", f"{guest}/initrd"]
launch = files + ["--append", "quiet", "--vcpus", "4", "--vcpu-type", "EPYC-v4"]
commands = [
    [belljar, "measure", "snp", *launch],
    [peers[0], "-m", "sevsnpmeasure.cli", "--mode", "snp", "--output-format", "hex", *launch],
]
times = [[], []]
for _ in range(rounds):
    digests = []
    for command, taken in zip(commands, times):
        started = time.perf_counter()
        digests.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        taken.append(time.perf_counter() - started)
    if digests[0] != digests[1]:
        sys.exit(f"different digests: {digests}")
ours, theirs = map(statistics.median, times)
ratio = statistics.median(peer / own for own, peer in zip(*times))
print(f"belljar measure snp {ours * 1e3:.1f} ms, sev-snp-measure {theirs * 1e3:.1f} ms, {ratio:.1f} times as fast")
