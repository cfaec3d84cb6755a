# SPDX-License-Identifier: Apache-2.0
"""The domain: environments, independent of how they are stored. Standard library only."""
