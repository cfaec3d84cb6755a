#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Shows what the store does, with a temporary store that is removed at the end.
set -eu

here=$(dirname "$0")
. "$here/show.sh"
directory=
trap 'rm -rf "$directory"' EXIT INT TERM

echo "This demo takes about half a minute, and removes its stores at the end."
echo "Each command after a \$ can be pasted into a shell, after these:"
printf '$ cd "%s"\n' "$PWD"
printf '$ export PATH="%s:$PATH"\n' "$(dirname "$(command -v waggle-fsstore)")"
run 'directory=$(mktemp -d)'
run 'export WAGGLE_STORE_PATH="$directory/store"'

say "Create a few environments, each with a separate process"
run 'waggle-fsstore create data-analysis --label team=red'
run 'waggle-fsstore create web-build --runtime node --timeout 1h --label team=blue'
run 'waggle-fsstore create scratch --runtime shell'
run 'id=$(waggle-fsstore ls -q | head -n 1)'

say "Let a process save as fast as it can, and kill -9 it in mid-save"
: >"$directory/acknowledged"
run 'python docs/demo/writer.py >>"$directory/acknowledged" &'
run 'writer=$!'
while [ "$(wc -l <"$directory/acknowledged")" -lt 200 ]; do
  kill -0 "$writer" || { echo "the writer ended by itself" >&2; exit 1; }
  sleep 0.01
done
run 'kill -9 "$writer"'
wait "$writer" 2>/dev/null || true

say "What survived, seen from a new process"
run 'waggle-fsstore ls'
# The kill may have cut the last line.
acknowledged=$(sed -n 's/^\([0-9]*\) saved as revision [0-9]* durably$/\1/p' "$directory/acknowledged" | tail -n 1)
stored=$(waggle-fsstore show writer | sed -n 's/.*"step": \([0-9]*\).*/\1/p')
echo "last save acknowledged before the kill: $acknowledged"
echo "the save that is stored:                $stored"
if [ "$stored" -ne "$acknowledged" ] && [ "$stored" -ne $((acknowledged + 1)) ]; then
  echo "an acknowledged save was lost" >&2
  exit 1
fi
echo "(one more is possible: stored, and killed before the writer could report it)"

say "One file"
run 'cat "$WAGGLE_STORE_PATH/environments/$id.json"'

if command -v git >/dev/null; then
  say "What a change looks like in git"
  run 'git -C "$WAGGLE_STORE_PATH" init --quiet'
  run 'git -C "$WAGGLE_STORE_PATH" add .'
  run 'git -C "$WAGGLE_STORE_PATH" -c user.name=demo -c user.email=demo@localhost commit --quiet -m before'
  run 'waggle-fsstore set "$id" --status running --label tier=gold'
  run 'git -C "$WAGGLE_STORE_PATH" --no-pager diff -U0'
fi

say "Who changed what, and why"
run 'waggle-fsstore rm --actor maja --reason "no longer needed" "$id"'
run 'waggle-fsstore history "$id"'

say "Overwrite a document with zeros, and repair it from the history"
run 'head -c 4 /dev/zero >"$WAGGLE_STORE_PATH/environments/writer.json"'
run 'waggle-fsstore fsck --repair' 2>&1 || [ $? -eq 1 ] # 1: all errors were repaired
run 'waggle-fsstore fsck' 2>&1
echo "the save that is stored: $(waggle-fsstore show writer | sed -n 's/.*"step": \([0-9]*\).*/\1/p')"

# The rest needs the extra 'server'.
python -c 'import mcp' 2>/dev/null || exit 0
sh "$here/server.sh"
