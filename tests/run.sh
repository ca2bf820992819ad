#!/usr/bin/env bash
# The whole suite, on both pairs of engines: SQLite with the embedded broker, then PostgreSQL with Redis
# (without the tests of graders/, tasks/ and llm/, which know no database, and of screens and figures that ask nothing unlike of it).
# A missing program skips its part by name, with the line that installs it; with CI=true it fails.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
unset PYTHONDONTWRITEBYTECODE  # else each of some hundred processes compiles the project and the tests anew

# Three processes on two cores: tests wait for browsers, workers and sandboxes; four with PostgreSQL, which they wait for too.
# Modules go out in the order of tests/conftest.py.
spread="--dist loadfile --no-loadscope-reorder"

echo "== SQLite, embedded broker"
"$python" -m pytest -n "${TEST_PROCESSES:-3}" $spread "$@"

postgres=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)
if [ -z "$postgres" ] || ! command -v redis-server >/dev/null; then
    echo "skipped: the suite on PostgreSQL and Redis: apt-get install postgresql redis-server"
    [ "${CI:-}" = "true" ] && exit 1
    exit 0
fi

echo "== PostgreSQL, Redis"
folder=$(mktemp -d /tmp/touchstone-services-XXXXXX)
pg_port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
redis_port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as_postgres() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
stop() {
    as_postgres "$postgres/pg_ctl" -D "$folder/pg" -m immediate stop >/dev/null 2>&1 || true
    [ -n "${redis_pid:-}" ] && kill "$redis_pid" 2>/dev/null || true
    rm -rf "$folder"
}
trap stop EXIT
mkdir "$folder/pg"
if [ "$(id -u)" = 0 ]; then chown postgres "$folder/pg" "$folder"; fi
as_postgres "$postgres/initdb" -D "$folder/pg" -U touchstone --auth=trust >/dev/null
as_postgres "$postgres/pg_ctl" -D "$folder/pg" -w -o "-p $pg_port -k $folder -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200" -l "$folder/pg/log" start >/dev/null
redis-server --port "$redis_port" --bind 127.0.0.1 --save "" --dir "$folder" >/dev/null &
redis_pid=$!
browser="ablations calibration datasets_builder frame hostile_outputs outputs_list reviewing tokens"
figures="compare_page labels published_figures study"  # of the same grades, which test_page and test_reading get from the database
without="graders tasks llm corpus test_architecture.py $(printf 'browser/test_%s.py ' $browser) $(printf 'calibration/test_%s.py ' $figures)
    runs/test_ablations.py review/test_rendering.py review/test_size.py api/test_guide.py"
DATABASE_URL="postgres://touchstone@127.0.0.1:$pg_port/postgres" CELERY_BROKER_URL="redis://127.0.0.1:$redis_port/0" \
    "$python" -m pytest -n "${TEST_PROCESSES:-4}" $spread $(printf -- "--ignore tests/%s " $without) "$@"
