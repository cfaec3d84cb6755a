# SPDX-License-Identifier: Apache-2.0
"""The MCP server: environments for AI agents, over HTTP or standard input and output."""
