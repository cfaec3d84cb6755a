# SPDX-License-Identifier: Apache-2.0
# Functions that both scripts of the demo use.

say() { printf '\n# %s\n' "$*"; }

# Print a command as it can be pasted, and run it.
run() {
  printf '$ %s\n' "$1"
  eval "$1"
}
