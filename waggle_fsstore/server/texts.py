# SPDX-License-Identifier: Apache-2.0
"""The texts that agents read about the server and its tools."""

from typing import Final

DESCRIPTION: Final = (
    "A durable store for agent environments, one readable JSON file each, with an MCP server, "
    "a CLI and pytest fixtures included."
)
INSTRUCTIONS: Final = (
    "An environment is an isolated home directory, /home/sandbox, with a runtime ready to use: "
    "python, node or shell. Run code in it with execute, put files there with write_file, and get "
    "results with read_file. Each execute is a new process: files stay, variables do not. "
    "Packages come from install_packages; programs have no network. "
    "Restarting the server keeps each environment and its environment_id. An "
    "environment that is idle for longer than its timeout is removed with all its files; for a "
    "while restore_environment brings it back. Every call that works in it resets the idle timer; "
    "extend_environment changes the timeout. "
    "Destroy environments you no longer need: the number of live environments is limited."
)
NO_EXECUTION: Final = (
    "This server cannot run programs: work with the file tools, or in the directory 'workspace'."
)

#: The title and the description of each tool.
TEXTS: Final = {
    "create_environment": (
        "Create an environment",
        "Create an environment and wait until it is ready. Run code in it with execute.",
    ),
    "list_environments": (
        "List environments",
        "List environments by id, one page at a time. 'unreadable' lists damaged records.",
    ),
    "get_environment": (
        "Get an environment",
        "Get one environment, and reset its idle timer.",
    ),
    "extend_environment": (
        "Extend an environment",
        "Change the idle timeout of a running environment, and reset its idle timer.",
    ),
    "destroy_environment": (
        "Destroy an environment",
        "Destroy an environment, in any status, and delete all its files.",
    ),
    "destroy_environments": (
        "Destroy environments by label",
        "Destroy all environments with given labels. It only counts them unless dry_run=false.",
    ),
    "restore_environment": (
        "Restore an expired environment",
        "Bring back an environment that expired, with its files. A destroyed one stays gone.",
    ),
    "execute": (
        "Run code",
        "Run code in an environment and wait for its end. Its files stay; there is no network.",
    ),
    "install_packages": (
        "Install packages",
        "Install wheels with pip, or npm packages without their scripts. Nothing is built.",
    ),
    "write_file": (
        "Write a file",
        "Write a file of an environment, with the directories that are missing on the way.",
    ),
    "read_file": (
        "Read a file",
        "Read a file of an environment: its text, or base64 for anything else.",
    ),
    "list_files": (
        "List files",
        "List a directory of an environment by name, one page at a time.",
    ),
    "environment_history": (
        "History of an environment",
        "List the changes to an environment: time, actor, reason. Works after it is destroyed.",
    ),
}
