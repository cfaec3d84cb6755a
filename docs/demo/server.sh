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

# Call a tool of the server, and print the members of the answer that matter here.
call() {
  run "python docs/demo/client.py \"\$url\" $1" >"$directory/answer"
  grep -E '^\$|^ *"(environment_id|name|status|workspace|message)": ' "$directory/answer"
}

say "Start a server, and let a client create two environments"
run 'directory=$(mktemp -d)'
run 'export WAGGLE_STORE_PATH="$directory/store" WAGGLE_LISTEN_ADDR=127.0.0.1:0 # any free port'
start
call 'create_environment runtime=python name=analysis'
run 'analysis=$(waggle-fsstore ls -q --runtime python)'
run 'workspace="$WAGGLE_STORE_PATH-workspaces/$analysis/home"'
run "echo 'print(\"what the agent wrote is here\")' >\"\$workspace/notes.py\""
call 'create_environment runtime=shell name=scratch'
run 'scratch=$(waggle-fsstore ls -q --runtime shell)'

say "kill -9 the server, and start another one"
run 'kill -9 "$server"'
wait "$server" 2>/dev/null || true
start

say "Both environments are there, and can be used"
call 'list_environments'
run '"$workspace/.venv/bin/python" "$workspace/notes.py"'

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
