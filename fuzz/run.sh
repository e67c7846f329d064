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
