# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the sandbox: each opens a way out of it."""

from typing import Any

from tests.planted import Patch, fault
from waggle_fsstore.provider.sandbox import seccomp

# System calls

_SECCOMP = "tests/provider/sandbox/test_seccomp.py"


@fault(f"{_SECCOMP}::test_foreign_architecture_is_killed[x86_64-1073741827]")
def allow_foreign_architecture(patch: Patch) -> None:
    patch.setattr(seccomp, "_unless_equal", lambda *_: [])


@fault(f"{_SECCOMP}::test_x32_call_is_killed[{1 << 30}]")
def allow_x32_calls(patch: Patch) -> None:
    patch.setattr(seccomp, "_X32_BIT", 0)


@fault(f"{_SECCOMP}::test_x32_call_is_killed[521]")
def allow_x32_calls_without_their_bit(patch: Patch) -> None:
    patch.setattr(seccomp, "_X32_NUMBERS", range(512, 512))


@fault(f"{_SECCOMP}::test_terminal_request_fails[x86_64-21522]")
def compare_whole_ioctl_argument(patch: Patch) -> None:
    _replace_check(
        patch,
        "ioctl",
        lambda body: [
            seccomp._load(seccomp._ARGUMENTS + 8 + 4),
            *seccomp._unless_equal(0, seccomp._ALLOW),
            *body,
        ],
    )


@fault(f"{_SECCOMP}::test_denied_calls_fail[aarch64]")
def allow_keyrings(patch: Patch) -> None:
    patch.delitem(seccomp.NOT_PERMITTED, "keyctl")


@fault(f"{_SECCOMP}::test_kernel_denies_calls_of_program")
def allow_memory_without_owner(patch: Patch) -> None:
    patch.delitem(seccomp.NOT_IMPLEMENTED, "memfd_create")


@fault(f"{_SECCOMP}::test_clone_into_new_namespace_fails[aarch64-28]")
def allow_new_namespaces(patch: Patch) -> None:
    patch.setattr(seccomp, "_NAMESPACES", 0)


@fault(f"{_SECCOMP}::test_socket_of_other_family_fails[x86_64-socketpair]")
def check_families_of_single_sockets_only(patch: Patch) -> None:
    _replace_check(patch, "socketpair", lambda _: [seccomp._return(seccomp._ALLOW)])


@fault(f"{_SECCOMP}::test_packet_socket_by_its_old_name_fails[x86_64-0]")
def ignore_type_of_sockets(patch: Patch) -> None:
    patch.setattr(seccomp, "_SOCKET_TYPE_MASK", 0)


@fault(f"{_SECCOMP}::test_other_personality_fails[x86_64]")
def allow_any_personality(patch: Patch) -> None:
    _replace_check(patch, "personality", lambda _: [seccomp._return(seccomp._ALLOW)])


@fault(f"{_SECCOMP}::test_filter_of_downloads_denies_forks[x86_64]")
def allow_forks_of_downloads(patch: Patch) -> None:
    real = seccomp.filter_for
    patch.setattr(seccomp, "filter_for", lambda machine, **_: real(machine))


@fault(f"{_SECCOMP}::test_filter_of_downloads_denies_forks[aarch64]")
def deny_threads_of_downloads(patch: Patch) -> None:
    patch.setattr(seccomp, "_CLONE_THREAD", 0)


@fault(f"{_SECCOMP}::test_numbers_are_those_of_the_headers[aarch64]")
def use_numbers_of_other_machine(patch: Patch) -> None:
    patch.setitem(seccomp.NOT_PERMITTED, "mount", (165, 165))


def _replace_check(patch: Patch, call: str, changed: Any) -> None:
    """Change the body of a rule that depends on arguments."""
    real = seccomp._checks

    def checks(*, may_fork: bool) -> dict[str, list[bytes]]:
        bodies = real(may_fork=may_fork)
        return {**bodies, call: changed(bodies[call])}

    patch.setattr(seccomp, "_checks", checks)
