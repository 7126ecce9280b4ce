#!/usr/bin/env bash
# Every check of the repository, one after the other. It goes on after a failure and prints counts at the end; a test that
# could not run here is counted as skipped and named. `test.sh lint` stops before the tests.
set -uo pipefail
cd "$(dirname "$0")/.."

logs=out/test
# The tests against a real API server install the CRDs in their own way, so they do not share a cluster with the chart.
api_cluster=conch-api
cluster=${CONCH_E2E_CLUSTER:-conch-e2e}
conch_cluster=${CARGO_TARGET_DIR:-target}/debug/conch-cluster
passed=0
failed=0
failures=()
skips=()
mkdir -p "$logs"

# step NAME COMMAND...: one check, which passes or fails as a whole.
step() {
    local name=$1 began=$SECONDS
    shift
    echo "== $name: $*"
    if "$@" 2>&1 | tee "$logs/$name.log"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$name")
    fi
    echo "== $name took $((SECONDS - began)) s"
}

# tests NAME COMMAND...: a run of cargo test, counted by its own words.
tests() {
    local name=$1 began=$SECONDS status log ok bad
    shift
    log=$logs/$name.log
    echo "== $name: $*"
    "$@" 2>&1 | tee "$log"
    status=$?
    ok=$(sum passed "$log")
    bad=$(sum failed "$log")
    while read -r line; do
        skips+=("$line")
        ok=$((ok - 1))
    done < <(sed -n 's/^.*SKIPPED //p' "$log")
    while read -r line; do skips+=("$line"); done < <(sed -n 's/^test \(.*\) \.\.\. ignored.*/\1/p' "$log")
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
        failures+=("$name: did not run to its end")
    fi
    while read -r line; do failures+=("$name: $line"); done < <(names_of_failures "$log")
    passed=$((passed + ok))
    failed=$((failed + bad))
    echo "== $name took $((SECONDS - began)) s"
}

# The sum of a number in all lines such as `test result: ok. 8 passed; 0 failed; ...`.
sum() {
    awk -v word="$1" '/^test result:/ {for (i = 2; i <= NF; i++) if ($i ~ "^" word) total += $(i - 1)} END {print total + 0}' "$2"
}

# The list that follows the last `failures:` of each test binary.
names_of_failures() {
    awk '/^failures:$/ {list = ""; inside = 1; next} inside && /^    [^ ]/ {list = list $1 "\n"; next} /^test result: FAILED/ {printf "%s", list} {inside = inside && NF == 0}' "$1"
}

conch_cluster() {
    local name=$1
    shift
    cargo run --quiet --package conch-cluster -- --name "$name" "$@"
}

# Whatever an earlier run left of it is gone.
fresh_cluster() {
    local name=$1
    shift
    conch_cluster "$name" down
    step "cluster-$name" conch_cluster "$name" up "$@"
}

short_files() {
    local long
    long=$(git ls-files '*.rs' '*.go' '*.sh' | xargs wc -l | awk '$2 != "total" && $1 > 500')
    [ -z "$long" ] || { echo "longer than 500 lines: split by concern"; echo "$long"; return 1; }
}

finish() {
    local name
    echo
    for name in "${failures[@]+"${failures[@]}"}"; do echo "FAILED  $name"; done
    for name in "${skips[@]+"${skips[@]}"}"; do echo "SKIPPED $name"; done
    echo "$passed passed, $failed failed, ${#skips[@]} skipped in $SECONDS s"
    [ "$failed" -eq 0 ]
    exit
}

step format cargo fmt --all --check
step lengths short_files
step clippy cargo clippy --quiet --workspace --all-targets -- -D warnings
[ "${1:-}" = lint ] && finish

step build cargo build --quiet --package conch-cluster --package conch-images
step images cargo run --quiet --package conch-images -- build
# The tests of single packages install parts of Conch by hand: they get a cluster of their own.
if [ -n "${CONCH_KUBECONFIG:-}" ]; then
    export CONCH_TEST_KUBECONFIG=$CONCH_KUBECONFIG
else
    fresh_cluster "$cluster-unit" --nodes 1
    CONCH_TEST_KUBECONFIG=$(conch_cluster "$cluster-unit" kubeconfig)
    export CONCH_TEST_KUBECONFIG
fi
step compile cargo test --quiet --workspace --no-run
tests unit cargo test --workspace --exclude conch-e2e --no-fail-fast
tests checker cargo test --package conch-e2e --lib
if [ -z "${CONCH_KUBECONFIG:-}" ]; then
    conch_cluster "$cluster-unit" down
    [ -n "${KEEP_CLUSTER:-}" ] || fresh_cluster "$cluster"
fi
tests e2e cargo test --package conch-e2e --test e2e -- --test-threads=1 --nocapture
if [ -z "${CONCH_KUBECONFIG:-}${KEEP_CLUSTER:-}" ]; then
    conch_cluster "$cluster" down
fi
grep -h '^RESULT' "$logs/e2e.log" | sed 's/^RESULT /  /'
finish
