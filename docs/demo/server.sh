#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What outlives a server that is killed, shown with a store of its own that is removed afterwards.
set -eu

here=$(dirname "$0")
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
WAGGLE_STORE_PATH=$folder/store
WAGGLE_LISTEN_ADDR=127.0.0.1:0 # Any port that is free.
export WAGGLE_STORE_PATH WAGGLE_LISTEN_ADDR

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

start() {
  : >"$folder/log"
  printf '$ waggle-fsstore serve &\n'
  waggle-fsstore serve 2>"$folder/log" &
  server=$!
  while ! grep -q 'serving on' "$folder/log"; do
    kill -0 "$server" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.05
  done
  url=$(sed -n 's|.*serving on \(http://[^"]*\)".*|\1|p' "$folder/log")
  echo "serving on $url as process $server"
}

call() {
  printf '$ call %s\n' "$*"
  python "$here/client.py" "$url" "$@" >"$folder/answer"
  grep -E '^ *"(environment_id|name|status|workspace|message)": ' "$folder/answer"
}
field() { sed -n "s/^ *\"$1\": \"\(.*\)\",*$/\1/p" "$folder/answer" | head -n 1; }

say "Start a server, and have a client create two environments"
start
call create_environment runtime=python name=analysis
analysis=$(field environment_id)
workspace=$(field workspace)
echo 'print("what the agent wrote is here")' >"$workspace/notes.py"
call create_environment runtime=shell name=scratch
scratch=$(field environment_id)

say "kill -9 the server, and start another one"
run kill -9 "$server"
wait "$server" 2>/dev/null || true
start

say "Both are there, and can be used"
call list_environments
run "$workspace/.venv/bin/python" "$workspace/notes.py"

say "Stop this server as one should: it destroys nothing either"
run kill "$server"
wait "$server"
start
call get_environment "environment_id=$analysis"

say "Destroy one: its files go too"
call destroy_environment "environment_id=$scratch" "reason=no longer needed"
[ ! -e "$WAGGLE_STORE_PATH-workspaces/$scratch" ]

say "Who did what, and why"
kill "$server"
wait "$server" # It has stored by now that the first one was used.
run waggle-fsstore history
server=
