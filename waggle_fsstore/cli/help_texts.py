# SPDX-License-Identifier: Apache-2.0
"""The help of each verb, which is there without docstrings too (``python -OO``).

The first line is also the docstring of the verb's function.
"""

from typing import Final

HELP: Final[dict[str, str]] = {
    "create": """Create an environment and print its id.""",
    "ls": """List environments, sorted by id.

Unreadable files are reported on stderr afterwards, with exit code 6.
On a terminal, ids and other fields are shortened to fit, and times are relative.
Otherwise tabs separate the columns, and all values are whole.
The verb has another name: list.""",
    "show": """Print the file of an environment, byte for byte.

A corrupt file is printed as well, with exit code 6.
The verb has another name: inspect.""",
    "set": """Change an environment atomically.

Labels are removed before others are added.
If nothing changes, no new revision is stored.
Only a change of the status is refused while a server runs.""",
    "rm": """Remove environments, with their workspaces.

All ids are tried; the exit code is that of the first failure.
A corrupt document is moved to lost+found in the store.
With --force, a workspace that cannot be removed is left behind and reported.
The verb has another name: delete.""",
    "undelete": """Bring back an environment that expired, with its files.

It is running again if its workspace is whole, with a new port and its whole timeout.
Files of expired environments are kept for WAGGLE_TRASH_KEEP. Those of environments that
were destroyed are gone: --record-only brings back the record, as an error.""",
    "exec": """Run a command in the sandbox of an environment.

The command sees the files of the environment, and of this machine only its programs.
It has the limits of the tool execute, and nothing of it runs afterwards. The exit code
is its own, 124 after --timeout, or 1 if it was stopped for another reason.""",
    "cp": """Copy a file into an environment, or out of one.

One of the two is ID:PATH: a path relative to the home directory of the environment, or
absolute as its programs see it. If DST ends with a slash, the file keeps its name. The
other is a file, or - for standard input or output.
For a directory: tar c DIR | waggle-fsstore exec -i ID -- tar x""",
    "shell": """Open a shell in the sandbox of an environment.

It has the limits of the tool execute, but no timeout. All that it has started ends with
it. The exit code is that of the shell.""",
    "count": """Print the number of environments.

Unreadable ones count too.""",
    "where": """Print the path of the store, which need not exist.""",
    "history": """List the changes to one environment, or to all.

The oldest change comes first. Deleted environments keep their history.
On a terminal, fields are shortened to fit. Otherwise tabs separate the columns, and all
values are whole.

For an environment whose id is prune, use: history -- prune.""",
    "events": """List all changes; with --follow, new ones as they happen.

Without --after or --since, --follow lists only new events.""",
    "history prune": """Remove old events from the history. Environments are unaffected.

Removes only whole files of the journal, and none that recovery may need.""",
    "top": """Show environments and changes, live.

Until q or Ctrl-C. What was used last comes first. For programs, use ls, or events --follow.""",
    "fsck": """Check the store for errors.

The exit code is a sum, as for fsck(8): 1 = errors repaired, 4 = errors remain,
8 = check incomplete, 16 = usage error. Warnings do not change it.""",
    "snapshot": """Copy all environments, as of one moment, to a new store.

Other programs may write to the store in the meantime.
The copy has a file SHA256SUMS for sha256sum -c.
Unreadable files are left out and reported, with exit code 6.""",
    "restore": """Restore a snapshot, or an old revision of one environment.

The history keeps all earlier versions, so a restore can be undone. Prints the number
of environments created, updated and deleted, or with --revision the new revision.""",
    "copy": """Copy a store with its history into another one.

Each of them is in files or in PostgreSQL. The changes keep their numbers, times and
actors, and the documents their bytes, which are compared at the end. An interrupted
copy is continued by the same command.""",
    "info": """Print sizes, journal, file system and durability.""",
    "schema": """Print the SQL that makes a store in PostgreSQL.

A program makes its store itself where its role may create a schema. Elsewhere:
waggle-fsstore schema | psql -v ON_ERROR_STOP=1 --single-transaction DATABASE""",
    "host ls": """List the hosts that share the store.

A host is silent when none of its servers was heard of for half a minute. Its
environments wait for it: only an operator declares a host gone.""",
    "host remove": """Declare a host gone for good.

Its environments become errors, which any server can then remove. The host itself stops
when it comes back. An interrupted removal is completed by the same command.""",
    "serve": """Serve environments to AI agents over MCP.

Stopping the server destroys no environment.
Over HTTP, listens at WAGGLE_LISTEN_ADDR (127.0.0.1:8080), path /mcp. Other settings are
environment variables too, such as WAGGLE_MAX_ENVIRONMENTS and WAGGLE_DEFAULT_TIMEOUT_MIN;
docs/configuration.md lists them all.
The page for browsers is at /.""",
    "ui": """Show a store in a browser, without a server.

Prints the URL, and ends with Ctrl-C. Takes no lock, removes nothing that has expired, and
listens on the loopback interface only. A server has the same page, at /.""",
}
