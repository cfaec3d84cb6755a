# SPDX-License-Identifier: Apache-2.0
"""Work on a whole store: check, repair, copy, restore, prune, measure."""
