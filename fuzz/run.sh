#!/usr/bin/env bash
# Fuzzes every parser for SECONDS each (default 600), or those that are named: fuzz/run.sh 600 contract evidence-report
# Coverage-guided by libFuzzer, on the stable toolchain: the instrumentation is LLVM's, asked for by name.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-600}
shift || true

export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --release --quiet
program=target/x86_64-unknown-linux-gnu/release/belljar-fuzz

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(BELLJAR_FUZZ=list "$program" 2>/dev/null || true)
# Real evidence as seeds, where the vectors are: they are not part of the repository.
vectors=$(realpath "${BELLJAR_VECTORS:-../../shared/vectors}" 2>/dev/null || true)
from_vectors() { # TARGET, then patterns of file names
  local target=$1 pattern file
  shift
  mkdir -p "corpus/$target"
  for pattern in "$@"; do
    find "$vectors" -type f -path "*/$pattern" -size -60k 2>/dev/null | sort | head -40 | while read -r file; do
      cp -n "$file" "corpus/$target/vector-$(sha256sum <"$file" | cut -c1-16)"
    done
  done
}
if [ -d "$vectors" ]; then
  from_vectors evidence-quote quote.bin td_quote.bin
  from_vectors evidence-report report.bin
  from_vectors evidence-hcl hcl_report.bin
  from_vectors evidence-tpm-quote tpm_quote.msg
  from_vectors evidence-tpm-signature tpm_quote.sig
  from_vectors evidence-tpm-certificate vek.der
  from_vectors evidence-tpm-key ak.pem
  from_vectors evidence-tcb-info tcb_info.json
  from_vectors evidence-qe-identity qe_identity.json
  from_vectors evidence-intel-crl 'pck_crl.der' 'root_ca_crl.der'
  from_vectors evidence-intel-chain tcb_signing_chain.pem pck_crl_issuer_chain.pem pck_chain.pem
  from_vectors evidence-certificate vek.der
  from_vectors evidence-kind quote.bin hcl_report.bin report.bin
  # The log's memory is mostly padding; its events are in the first part.
  mkdir -p corpus/evidence-event-log
  find "$vectors" -name ccel_data.bin | head -1 | while read -r file; do head -c 20000 "$file" >corpus/evidence-event-log/vector; done
fi

failed=0
for target in "${targets[@]}"; do
  corpus=corpus/$target
  mkdir -p "$corpus" "artifacts/$target"
  seeds=()
  [ -d "seeds/$target" ] && seeds=("seeds/$target")
  printf '%-24s ' "$target"
  if BELLJAR_FUZZ=$target "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
      -artifact_prefix="artifacts/$target/" "$corpus" "${seeds[@]}" >"artifacts/$target/log" 2>&1; then
    grep -E 'number_of_executed_units' "artifacts/$target/log" | sed 's/.*: */executions: /'
  else
    echo "FINDING, see fuzz/artifacts/$target"
    failed=1
  fi
done
exit $failed
