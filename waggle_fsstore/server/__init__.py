# SPDX-License-Identifier: Apache-2.0
"""The MCP server: environments for AI agents, over HTTP or over standard input and output."""
