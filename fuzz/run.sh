#!/usr/bin/env bash
# Fuzzes each target for SECONDS_EACH seconds, or those that are named, and keeps the smallest corpus that covers as much as
# before. What fails is kept too: `cargo test -p conch-fuzz` then fails until it is mended.
set -uo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-600}
host=$(rustc -vV | sed -n 's/^host: //p')
work=out/fuzz
passed=0
failed=0

# What cargo-fuzz passes on a stable compiler: coverage, and no sanitizer, as there is no unsafe code here.
coverage="-Cpasses=sancov-module -Ccodegen-units=1 --cfg fuzzing
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0"

if ! command -v c++ > /dev/null; then
    echo "libFuzzer needs a C++ compiler. On Debian and Ubuntu: apt-get install g++" >&2
    exit 1
fi

# With a target, so that build scripts and macros run without these flags.
build() {
    RUSTFLAGS=$(echo $coverage) cargo build --quiet --package conch-fuzz --features libfuzzer --profile fuzz \
        --target "$host" "${@/#/--bin=fuzz-}"
}

corpus() {
    cargo run --quiet --package conch-fuzz --bin conch-corpus -- "$@"
}

# fuzz TARGET: runs it on what is kept, then keeps what covers as much.
fuzz() {
    local target=$1 status artifact
    local program=${CARGO_TARGET_DIR:-target}/$host/fuzz/fuzz-$target
    local options=(-timeout=10 -rss_limit_mb=1024 -max_len=20000)
    [ -f "fuzz/$target.dict" ] && options+=("-dict=fuzz/$target.dict")
    rm -rf "${work:?}/$target"
    mkdir -p "$work/$target/failures" "$work/$target/kept"
    corpus unpack "$target" "$work/$target/corpus" || return 1
    "$program" "${options[@]}" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$work/$target/failures/" \
        "$work/$target/corpus" 2>&1 | tee "$work/$target.log" | grep -v '^#.*\(NEW\|REDUCE\)'
    status=${PIPESTATUS[0]}
    for artifact in "$work/$target/failures"/*; do
        [ -e "$artifact" ] && corpus add "$target" "$artifact"
    done
    [ "$status" -eq 0 ] || return 1
    # What counts is which code was reached, not how often: that would keep five times as much.
    "$program" "${options[@]}" -merge=1 -set_cover_merge=1 -use_counters=0 -use_cmp=0 "$work/$target/kept" \
        "$work/$target/corpus" > "$work/$target.merge.log" 2>&1 && corpus pack "$target" "$work/$target/kept"
}

if [ $# -eq 0 ]; then
    targets=$(corpus targets) || exit 1
    set -- $targets
fi
build "$@" || exit 1
for target in "$@"; do
    echo "== $target for $seconds s"
    if fuzz "$target"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED  $target"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
