#!/usr/bin/env bash
# Real faults on a cluster of their own, scenarios that break only their own pods side by side. NAMES picks some;
# KEEP_CLUSTER=1 keeps the cluster, and takes one that is up. The last line holds the counts.
set -uo pipefail
cd "$(dirname "$0")/.."

export CONCH_E2E_CLUSTER=${CONCH_E2E_CLUSTER:-conch-faults}
log=out/faults.log
mkdir -p out

conch_cluster() { cargo run --quiet --package conch-cluster -- --name "$CONCH_E2E_CLUSTER" "$@"; }

cargo build --quiet --package conch-cluster --package conch-images || exit
cargo run --quiet --package conch-images -- build || exit
cargo test --quiet --package conch-e2e --test faults --no-run || exit
if [ -z "${KEEP_CLUSTER:-}" ]; then
    trap 'conch_cluster down' EXIT
    conch_cluster down
fi
# shellcheck disable=SC2086 # several names
cargo test --package conch-e2e --test faults -- --test-threads=3 --nocapture ${NAMES:-} >"$log" 2>&1
status=$?
sed -n 's/^.*RESULT //p; s/^.*SKIPPED /SKIPPED /p; s/^test \(.*\) \.\.\. FAILED$/FAILED  \1/p' "$log"
counts=$(sed -n 's/^test result: .* \([0-9]* passed\); \([0-9]* failed\);.*/\1, \2/p' "$log")
if [ "$status" -ne 0 ]; then
    echo "what the failed ones saw is in $log"
    [ -n "$counts" ] || tail -n 20 "$log"
fi
[ -n "${KEEP_CLUSTER:-}" ] || { trap - EXIT; conch_cluster down 2>/dev/null; }
echo "${counts:-0 passed, 1 failed}"
exit "$status"
