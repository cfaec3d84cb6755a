# SPDX-License-Identifier: Apache-2.0
"""Other projects' MCP clients, which talk to a real server."""
