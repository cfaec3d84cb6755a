# SPDX-License-Identifier: Apache-2.0
"""What is done with environments: their life from creation to removal."""
