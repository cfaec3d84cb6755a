# SPDX-License-Identifier: Apache-2.0
"""The domain: what an environment is, whatever keeps it. Standard library only."""
