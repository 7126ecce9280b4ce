#!/bin/sh
# Does one step a second while this pod leads. It asks before every step. Needs curl ≥ 7.76 and psql.
#   CONCH_URL     the sidecar; set by Conch
#   DATABASE_URL  a PostgreSQL database with the function conch_fence of docs/fencing.md
set -u
export PGCONNECT_TIMEOUT=2

# CLOCK_BOOTTIME in hundredths of a second, rounded down: it goes on while the machine is suspended. A container may have a
# file of its own, which begins at 0: only differences count.
now() {
    read -r uptime _ </proc/uptime
    echo "${uptime%.*}${uptime#*.}"
}

# A field of the answer, if it consists of digits, with quotes or without.
digits() {
    printf '%s' "$answer" | sed -n "s/.*\"$1\":\"\{0,1\}\([0-9]\{1,20\}\)[\",}].*/\1/p"
}

# One transaction. The function refuses a token that is lower than the highest one seen; then nothing is written. It ends
# within 2 s, less than the policy's stopGrace of 3 s.
step() {
    timeout 2 psql "$DATABASE_URL" --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --set=token="$1" <<'SQL'
BEGIN;
SELECT conch_fence('payments', :'token');
INSERT INTO entries (entry) VALUES ('one step');
COMMIT;
SQL
}

while sleep 1; do
    asked=$(now) # before the question: nobody knows how long the answer was on its way
    # Status 503 (another pod leads), no answer, none in time: curl fails.
    answer=$(curl -sS --fail-with-body --max-time 2 "$CONCH_URL/v1/leader") && leads=yes || leads=no
    case $answer in *'"terminating":true'*) exit ;; esac
    [ "$leads" = yes ] || continue
    token=$(digits token) valid=$(digits validForMs)
    deadline=$(expr "$asked" + "${valid:-0}" / 10 - 1)
    # Nothing but the step may stand behind this line.
    [ -n "$token" ] && [ "$(now)" -lt "$deadline" ] && step "$token"
done
