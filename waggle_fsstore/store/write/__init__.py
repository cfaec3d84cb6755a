# SPDX-License-Identifier: Apache-2.0
"""One change, from the lock to the rename."""
