# SPDX-License-Identifier: Apache-2.0
"""The store in PostgreSQL, for servers on several machines. Needs the extra ``postgres``."""
