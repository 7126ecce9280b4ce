#!/usr/bin/env bash
# Every check of the repository, one after the other. It goes on after a failure and prints counts at the end; a test that
# could not run here is counted as skipped and named. However it ends, the clusters that it brought up are gone.
#   test.sh          everything
#   test.sh lint     stops before the tests
#   test.sh clean    ends all clusters of this repository
# KEEP_CLUSTER=1 keeps the cluster of the end-to-end tests, and takes one that is up. CONCH_KUBECONFIG names somebody else's.
set -uo pipefail
cd "$(dirname "$0")/.."

logs=out/test
cluster=${CONCH_E2E_CLUSTER:-conch-e2e}
unit_cluster=$cluster-unit
operator_cluster=$cluster-operator
demo_cluster=conch-demo
conch_cluster=${CARGO_TARGET_DIR:-target}/debug/conch-cluster
guest=${CONCH_KUBECONFIG:-}
cargo_deny=0.20.2
passed=0
failed=0
failures=()
reasons=()
skips=()
times=()
# The process groups that run, the step and what goes on beside it, and whether there is a cluster to tidy.
child=
companions=()
started=
mkdir -p "$logs"

# logged NAME COMMAND...: runs a command in a process group of its own, so that it can be ended with all that it started.
logged() {
    local name=$1 began=$SECONDS status
    shift
    echo "== $name: $*"
    set -m
    ("$@" 2>&1 | tee "$logs/$name.log") </dev/null &
    child=$!
    set +m
    wait "$child"
    status=$?
    child=
    times+=("$(printf '%5d s  %s' $((SECONDS - began)) "$name")")
    echo "== $name took $((SECONDS - began)) s"
    return "$status"
}

# step NAME COMMAND...: one check, which passes or fails as a whole.
step() {
    local line
    if logged "$@"; then
        passed=$((passed + 1))
        while read -r line; do skips+=("$line"); done < <(sed -n 's/^SKIPPED //p' "$logs/$1.log")
    else
        failed=$((failed + 1))
        failures+=("$1")
        reasons+=("$(echo "-- the end of $1:" && tail -n 20 "$logs/$1.log")")
    fi
}

# tests NAME COMMAND...: a run of cargo test.
tests() {
    logged "$@"
    counted "$1" $?
}

# beside NAME COMMAND...: starts a run of cargo test that goes on beside the next steps, until `joined NAME PROCESS`, the
# process being the last of `companions`.
beside() {
    echo "== $1, beside what follows: ${*:2}"
    set -m
    ("${@:2}" >"$logs/$1.log" 2>&1) </dev/null &
    companions+=($!)
    set +m
}

# joined NAME PROCESS: waits for what runs beside.
joined() {
    local began=$SECONDS status
    wait "$2"
    status=$?
    times+=("$(printf '%5d s  %s' $((SECONDS - began)) "$1, after what it ran beside")")
    cat "$logs/$1.log"
    counted "$1" "$status"
}

# counted NAME STATUS: a run of cargo test by its own words.
counted() {
    local log=$logs/$1.log status=$2 ok bad line
    ok=$(sum passed "$log")
    bad=$(sum failed "$log")
    while read -r line; do
        skips+=("$line")
        ok=$((ok - 1))
    done < <(sed -n 's/^.*SKIPPED //p' "$log")
    while read -r line; do skips+=("$line"); done < <(sed -n 's/^test \(.*\) \.\.\. ignored.*/\1/p' "$log")
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
        failures+=("$1: did not run to its end")
        reasons+=("$(echo "-- the end of $1:" && tail -n 20 "$log")")
    fi
    while read -r line; do failures+=("$1: $line"); done < <(names_of_failures "$log")
    [ "$status" -eq 0 ] || reasons+=("$(panics "$log")")
    passed=$((passed + ok))
    failed=$((failed + bad))
}

# The sum of a number in all lines such as `test result: ok. 8 passed; 0 failed; ...`.
sum() {
    awk -v word="$1" '/^test result:/ {for (i = 2; i <= NF; i++) if ($i ~ "^" word) total += $(i - 1)} END {print total + 0}' "$2"
}

# The list that follows the last `failures:` of each test binary.
names_of_failures() {
    awk '/^failures:$/ {list = ""; inside = 1; next} inside && /^    [^ ]/ {list = list $1 "\n"; next} /^test result: FAILED/ {printf "%s", list} {inside = inside && NF == 0}' "$1"
}

# What each failed test said, without the world that it shows behind it.
panics() {
    awk '/panicked at / {left = 10} /^(stack backtrace:|note: )/ || /^\$ kubectl / {left = 0} left > 0 && NF {print substr($0, 1, 600); left--}' "$1" | head -n 50
}

conch_cluster() {
    local name=$1
    shift
    # Not through cargo, if it can be: that would wait for whoever builds, also while a killed run is tidied.
    if [ -x "$conch_cluster" ]; then
        "$conch_cluster" --name "$name" "$@"
    else
        cargo run --quiet --package conch-cluster -- --name "$name" "$@"
    fi
}

# Whatever an earlier run left of it is gone.
fresh_cluster() {
    conch_cluster "$1" down
    step "cluster-$1" conch_cluster "$@"
}

# The clusters that a killed test left: they bear the number of its process.
end_orphans() {
    local name pid
    while read -r name; do
        pid=${name#t-}
        [ -d "/proc/${pid%%-*}" ] || conch_cluster "$name" down
    done < <(conch_cluster x list | awk '$1 ~ /^t-[0-9]+-/ {print $1}')
    [ ! -d /var/lib/conch/documents ] || CONCH_STATE=/var/lib/conch/documents conch_cluster conch down
}

# Takes away what this run brought up or installed.
end() {
    trap '' INT TERM HUP
    local group
    for group in $child "${companions[@]+"${companions[@]}"}"; do
        kill -TERM -- "-$group" && sleep 1 && kill -KILL -- "-$group"
    done 2>/dev/null
    [ -n "$started" ] || return
    if [ -n "$guest" ]; then
        clear_guest
        return
    fi
    conch_cluster "$unit_cluster" down
    conch_cluster "$operator_cluster" down
    conch_cluster "$demo_cluster" down
    [ -n "${KEEP_CLUSTER:-}" ] || conch_cluster "$cluster" down
    end_orphans
}

# Somebody else's cluster must be without Conch: the tests would take it away.
check_guest() {
    local found
    found=$(kubectl --kubeconfig "$guest" get customresourcedefinitions --output name | grep '\.conch\.rs$') || return 0
    echo "the cluster of CONCH_KUBECONFIG has Conch, or what is left of it: ${found//$'\n'/ }"
    echo "The tests install and remove Conch. Remove it if you can do without: helm uninstall conch --namespace conch-system;"
    echo "kubectl delete namespace conch-system; kubectl delete customresourcedefinitions $definitions"
    return 1
}

definitions="coordinationpolicies.conch.rs elections.conch.rs"

clear_guest() {
    helm --kubeconfig "$guest" uninstall conch --namespace conch-system --ignore-not-found --wait
    # shellcheck disable=SC2086 # two names
    kubectl --kubeconfig "$guest" delete customresourcedefinitions $definitions --ignore-not-found
    kubectl --kubeconfig "$guest" delete namespace conch-system conch-demo --ignore-not-found
}

short_files() {
    local long
    long=$(git ls-files '*.rs' '*.go' '*.sh' | xargs wc -l | awk '$2 != "total" && $1 > 500')
    [ -z "$long" ] || { echo "longer than 500 lines: split by concern"; echo "$long"; return 1; }
}

# The names of all integration tests but the end-to-end ones: tests/NAME.rs, tests/NAME/main.rs.
integration_tests() {
    git ls-files '*/tests/*.rs' | grep -v -e /src/ -e '^e2e/tests/' | sed -nE 's#^.*/tests/([^/]+)(/main)?\.rs$#\1#p'
}

# Licenses, bans and sources, by deny.toml. Advisories need a database from the network and change by the day.
dependencies() {
    local root=${XDG_CACHE_HOME:-$HOME/.cache}/conch/cargo-deny-$cargo_deny
    if [ ! -x "$root/bin/cargo-deny" ]; then
        echo "building cargo-deny $cargo_deny into $root: 3 minutes on two cores"
        cargo install --quiet --locked --root "$root" "cargo-deny@$cargo_deny" || return
    fi
    "$root/bin/cargo-deny" --locked check licenses bans sources
}

# What the commands of the documents need in a pod, and the tests of PostgreSQL, beside what the cluster installs for itself.
programs() {
    local missing=() program
    for program in curl python3; do
        [ -x "/usr/bin/$program" ] || missing+=("$program")
    done
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing+=(postgresql)
    [ -x /usr/sbin/pgbouncer ] || command -v pgbouncer >/dev/null || missing+=(pgbouncer)
    [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
    echo "installing ${missing[*]} with apt-get"
    # What needs them then says so by its name.
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
        echo "apt-get failed: install ${missing[*]} by hand"
}

finish() {
    local line
    echo
    printf '%s\n' "${times[@]}"
    cat "$logs"/*.log | sed -n 's/^.*RESULT /  /p'
    for line in "${reasons[@]+"${reasons[@]}"}"; do printf '\n%s\n' "$line"; done
    for line in "${failures[@]+"${failures[@]}"}"; do echo "FAILED  $line"; done
    for line in "${skips[@]+"${skips[@]}"}"; do echo "SKIPPED $line"; done
    # The last line holds the counts, so what ends the clusters comes before.
    trap - EXIT
    end >"$logs/end.log" 2>&1
    echo "$passed passed, $failed failed, ${#skips[@]} skipped in $SECONDS s"
    [ "$failed" -eq 0 ]
    exit
}

if [ "${1:-}" = clean ]; then
    for name in conch conch-bench conch-fencing "$demo_cluster" "$unit_cluster" "$operator_cluster" "$cluster"; do conch_cluster "$name" down; done
    end_orphans
    exit
fi

trap end EXIT
trap 'exit 130' INT TERM HUP
rm -f "$logs"/*.log
step format cargo fmt --all --check
step lengths short_files
step clippy cargo clippy --quiet --workspace --all-targets -- -D warnings
step dependencies dependencies
[ "${1:-}" = lint ] && finish

step build cargo build --quiet --workspace --bin conch-cluster --bin conch-images
step images make images
step programs programs
# The tests of single packages install parts of Conch by hand: they get a cluster of their own. Those of the operator take all
# of one, so they get another.
if [ -n "$guest" ]; then
    before=$failed
    step guest check_guest
    [ "$failed" -eq "$before" ] || finish
    started=1
    export CONCH_TEST_KUBECONFIG=$guest
else
    started=1
    fresh_cluster "$unit_cluster" up --nodes 1
    fresh_cluster "$operator_cluster" up --nodes 1
    CONCH_TEST_KUBECONFIG=$(conch_cluster "$unit_cluster" kubeconfig)
    export CONCH_TEST_KUBECONFIG
fi
step compile cargo test --quiet --workspace --no-run
# Always the whole workspace: for another selection of packages cargo builds their dependencies anew, with other features.
tests unit cargo test --workspace --lib --bins --no-fail-fast
operator=(cargo test --workspace --test inject --test policy --no-fail-fast)
mapfile -t integration < <(integration_tests | grep -vxe inject -e policy -e postgres | sed 's/^/--test=/')
# Side by side, each on a cluster or servers of its own: they wait most of the time.
beside documents cargo test --workspace --test documents
beside postgres cargo test --workspace --test postgres
if [ -n "$guest" ]; then
    tests operator "${operator[@]}"
else
    beside operator env CONCH_TEST_KUBECONFIG="$(conch_cluster "$operator_cluster" kubeconfig)" "${operator[@]}"
fi
tests integration cargo test --workspace "${integration[@]}" --no-fail-fast
tests doc cargo test --workspace --doc
[ -n "$guest" ] || joined operator "${companions[2]}"
joined postgres "${companions[1]}"
joined documents "${companions[0]}"
companions=()
# Helm would not take over what the tests of single packages installed.
if [ -n "$guest" ]; then
    clear_guest
else
    conch_cluster "$unit_cluster" down
    conch_cluster "$operator_cluster" down
fi
step demo make demo
if [ -z "$guest" ]; then
    conch_cluster "$demo_cluster" down
    [ -n "${KEEP_CLUSTER:-}" ] || fresh_cluster "$cluster" up
fi
# Some have a namespace each; the others break what all of them share.
own_namespace=(election:: injection:: lifecycle:: policies:: presence::)
tests e2e-namespaces cargo test --workspace --test e2e -- --test-threads=3 --nocapture "${own_namespace[@]}"
tests e2e cargo test --workspace --test e2e -- --test-threads=1 --nocapture "${own_namespace[@]/#/--skip=}"
tests examples cargo test --workspace --test examples -- --test-threads=14 --nocapture
# The others take half an hour: make faults.
tests faults cargo test --workspace --test faults -- --test-threads=3 --nocapture always::
finish
