# SPDX-License-Identifier: Apache-2.0
"""The page of a store for a browser: environments, audit trail and health, all read-only."""
