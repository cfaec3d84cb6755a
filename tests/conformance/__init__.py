# SPDX-License-Identifier: Apache-2.0
"""The public conformance tool of MCP, run against the server: ``make conformance``."""
