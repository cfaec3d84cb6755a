#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Shows what survives a killed server, with a temporary store that is removed at the end.
set -eu

here=$(dirname "$0")
. "$here/show.sh"
directory=
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM

start() {
  rm -f "$directory/log" # Else the address of the server before it could be read.
  run 'waggle-fsstore serve 2>"$directory/log" &'
  run 'server=$!'
  while ! grep -q 'serving on' "$directory/log" 2>/dev/null; do
    kill -0 "$server" 2>/dev/null || { cat "$directory/log" >&2; exit 1; }
    sleep 0.05
  done
  run 'url=$(grep -o "http://[^\"]*" "$directory/log")'
  echo "serving on $url as process $server"
}

# Programs are run only where they can be isolated.
can_execute() {
  grep -q '"execution": "isolated"' "$directory/log" || { echo "(no programs here: see docs/security.md)"; false; }
}

# Call a tool of the server, and print the members of the answer that matter here.
call() {
  run "python docs/demo/client.py \"\$url\" $1" >"$directory/answer"
  grep -E '^\$|^ *"(environment_id|name|status|workspace|message|stdout|stderr|exit_code|bytes_written|content)": ' "$directory/answer"
}

say "Start a server, and let a client create two environments, and run code in one"
run 'directory=$(mktemp -d)'
run 'export WAGGLE_STORE_PATH="$directory/store" WAGGLE_LISTEN_ADDR=127.0.0.1:0 # any free port'
start
call 'create_environment runtime=python name=analysis'
run 'analysis=$(waggle-fsstore ls -q --runtime python)'
call 'write_file environment_id="$analysis" path=bees.csv content="maja,31"'
if can_execute; then
  call 'install_packages environment_id="$analysis" packages=tabulate'
  call 'execute environment_id="$analysis" code="import csv, tabulate as t; print(t.tabulate(csv.reader(open(\"bees.csv\"))))"'
fi
call 'create_environment runtime=shell name=scratch'
run 'scratch=$(waggle-fsstore ls -q --runtime shell)'

say "kill -9 the server, and start another one"
run 'kill -9 "$server"'
wait "$server" 2>/dev/null || true
start

say "Both environments are there, and can be used"
call 'list_environments'
call 'read_file environment_id="$analysis" path=bees.csv'

say "Stop this server properly: it destroys nothing either"
run 'kill "$server" && wait "$server"'
start
call 'get_environment environment_id="$analysis"'

say "Destroy one: its files are removed too"
call 'destroy_environment environment_id="$scratch" reason="no longer needed"'
[ ! -e "$WAGGLE_STORE_PATH-workspaces/$scratch" ]

say "Who did what, and why"
run 'kill "$server" && wait "$server"' # It has now stored the use of the first environment.
run 'waggle-fsstore history'
server=
