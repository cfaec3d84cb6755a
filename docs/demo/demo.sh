#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What the store does, shown in a store of its own that is removed afterwards.
set -eu

here=$(dirname "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
WAGGLE_STORE_PATH=$folder/store
export WAGGLE_STORE_PATH
store=$WAGGLE_STORE_PATH

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "Create a few environments, each by a process of its own"
run waggle-fsstore create data-analysis --label team=red
run waggle-fsstore create web-build --runtime node --timeout 1h --label team=blue
run waggle-fsstore create scratch --runtime shell
id=$(waggle-fsstore ls -q | head -n 1)

say "Let a process save as fast as it can, and kill -9 it in mid-save"
: >"$folder/acknowledged"
python "$here/writer.py" >>"$folder/acknowledged" &
writer=$!
while [ "$(wc -l <"$folder/acknowledged")" -lt 200 ]; do
  kill -0 "$writer" || { echo "the writer ended by itself" >&2; exit 1; }
  sleep 0.01
done
kill -9 "$writer"
wait "$writer" 2>/dev/null || true
echo "killed process $writer"

say "What survived, seen from a new process"
run waggle-fsstore ls
# The kill may have cut the last line.
acknowledged=$(sed -n 's/^\([0-9]*\) saved as revision [0-9]* durably$/\1/p' "$folder/acknowledged" | tail -n 1)
stored=$(waggle-fsstore show writer | sed -n 's/.*"step": \([0-9]*\).*/\1/p')
echo "last save acknowledged before the kill: $acknowledged"
echo "the save that is stored:                $stored"
if [ "$stored" -ne "$acknowledged" ] && [ "$stored" -ne $((acknowledged + 1)) ]; then
  echo "an acknowledged save was lost" >&2
  exit 1
fi
echo "(one more is possible: stored, and killed before it could say so)"

say "One file"
run cat "$store/environments/$id.json"

if command -v git >/dev/null; then
  say "What a change looks like in git"
  git -C "$store" init --quiet
  git -C "$store" add .
  git -C "$store" -c user.name=demo -c user.email=demo@localhost commit --quiet -m before
  run waggle-fsstore set "$id" --status running --label tier=gold
  run git -C "$store" --no-pager diff -U0
fi

say "Who changed what, and why"
run waggle-fsstore rm --actor maja --reason "no longer needed" "$id"
run waggle-fsstore history "$id"

say "Zero a document by hand, and repair it from the history"
printf '\000\000\000\000' >"$store/environments/writer.json"
run waggle-fsstore fsck --repair 2>&1 || [ $? -eq 1 ] # 1: all errors were repaired
run waggle-fsstore fsck 2>&1
echo "the save that is stored: $(waggle-fsstore show writer | sed -n 's/.*"step": \([0-9]*\).*/\1/p')"

# Without the extra 'server' there is no more to show.
python -c 'import mcp' 2>/dev/null || exit 0
sh "$here/server.sh"
