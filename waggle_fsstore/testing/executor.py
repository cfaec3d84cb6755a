# SPDX-License-Identifier: Apache-2.0
"""The contract of executors, as tests."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from waggle_fsstore.domain.environment import Environment, Runtime
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.service.executor import Executor

_TIMEOUT = timedelta(minutes=1)

#: Longer than any test.
_ENDLESS = "sleep 3600 & (trap '' TERM; sleep 3600) & wait"


class ExecutorContract:
    """Subclass it and define the fixtures ``executor`` and ``environment``.

    The environment has the runtime python, and its workspace exists, without any files but those
    of the runtime. ``needs_isolation`` tells the tests of what only isolation can promise.
    """

    needs_isolation = True

    def test_output_and_exit_code_are_returned(
        self, executor: Executor, environment: Environment
    ) -> None:
        """What a program writes to each stream, and its exit code, are the result."""
        code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
        result = _run(executor, environment, code, Runtime.PYTHON)
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
        assert (result.stdout_bytes, result.stderr_bytes) == (4, 4)
        assert (result.truncated, result.stopped) == (False, Stop.NONE)
        assert result.duration_ms >= 0

    @pytest.mark.parametrize("code", ["", "# nothing", "x = 'é\U0001f41d'", "\n" * 10_000])
    def test_any_code_is_run(self, executor: Executor, environment: Environment, code: str) -> None:
        """Code may be empty, long, and hold any character."""
        result = _run(executor, environment, code, Runtime.PYTHON)
        assert (result.exit_code, result.stderr) == (0, "")

    def test_failing_program_shows_its_line(
        self, executor: Executor, environment: Environment
    ) -> None:
        """A traceback has the line of the code."""
        result = _run(executor, environment, "\nraise KeyError('the key')", Runtime.PYTHON)
        assert result.exit_code == 1
        assert "line 2" in result.stderr
        assert "the key" in result.stderr

    def test_signal_is_reported_as_by_a_shell(
        self, executor: Executor, environment: Environment
    ) -> None:
        """The exit code is 128 and the number of the signal that ended the program."""
        assert _run(executor, environment, "kill -KILL $$").exit_code == 137

    def test_files_stay_and_variables_do_not(
        self, executor: Executor, environment: Environment
    ) -> None:
        """Each call is a new process in the same home directory, which is its working directory."""
        first = _run(
            executor, environment, "export KEPT=1; echo text > kept; cd /; pwd; echo $HOME"
        )
        root, home = first.stdout.split()
        assert root == "/"
        second = _run(executor, environment, 'cat kept; echo "[$KEPT]"; pwd')
        assert second.stdout.split() == ["text", "[]", home]

    def test_modules_beside_code_can_be_imported(
        self, executor: Executor, environment: Environment
    ) -> None:
        """A module in the home directory can be imported by name."""
        _run(executor, environment, "echo 'VALUE = 42' > own_module.py")
        result = _run(
            executor, environment, "import own_module as m; print(m.VALUE)", Runtime.PYTHON
        )
        assert result.stdout == "42\n"

    def test_input_is_empty(self, executor: Executor, environment: Environment) -> None:
        """A program that reads its input finds the end of it."""
        assert _run(executor, environment, "cat; echo end").stdout == "end\n"

    def test_output_that_is_not_text_is_replaced(
        self, executor: Executor, environment: Environment
    ) -> None:
        """Bytes that are not UTF-8 become U+FFFD, and nothing else changes."""
        result = _run(executor, environment, r"printf 'a\377\000b'")
        assert result.stdout == "a\ufffd\0b"

    def test_long_output_keeps_both_ends(
        self, executor: Executor, environment: Environment
    ) -> None:
        """Of long output the beginning and the end are kept, and the sizes are exact."""
        code = "print('first'); print('x' * 5_000_000); print('last')"
        result = _run(executor, environment, code, Runtime.PYTHON)
        assert result.truncated
        assert result.stdout_bytes == 5_000_012
        assert result.stdout.startswith("first\n")
        assert result.stdout.endswith("x\nlast\n")
        assert "bytes left out" in result.stdout
        assert len(result.stdout) < 5_000_000

    def test_no_variable_of_server_is_inherited(
        self,
        executor: Executor,
        environment: Environment,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A secret in the environment of the server stays there."""
        monkeypatch.setenv("WAGGLE_AUTH_TOKEN", "a-secret-of-the-server")
        assert "a-secret" not in _run(executor, environment, "env; cat /proc/self/environ").stdout

    def test_program_is_stopped_at_timeout(
        self, executor: Executor, environment: Environment
    ) -> None:
        """After its timeout a program is stopped; what it wrote until then is returned."""
        result = _run(
            executor, environment, f"echo begun; {_ENDLESS}", timeout=timedelta(milliseconds=500)
        )
        assert (result.stopped, result.exit_code) == (Stop.TIMEOUT, -1)
        assert result.stdout == "begun\n"

    def test_program_is_stopped_when_asked(
        self, executor: Executor, environment: Environment
    ) -> None:
        """A program ends soon after ``stop`` returns a reason, which is in the result."""
        asked = threading.Event()
        threading.Timer(0.3, asked.set).start()
        result = _run(
            executor,
            environment,
            _ENDLESS,
            stop=lambda: Stop.CANCELLED if asked.is_set() else Stop.NONE,
        )
        assert (result.stopped, result.exit_code) == (Stop.CANCELLED, -1)

    def test_nothing_outlives_the_call(self, executor: Executor, environment: Environment) -> None:
        """What a program leaves in the background ends with it, a daemon too."""
        if not self.needs_isolation:
            pytest.skip("only isolation ends a program that has left its process group")
        daemon = "setsid sh -c 'while :; do echo x >> alive; sleep 0.02; done' >/dev/null 2>&1 &"
        code = f"{daemon} while ! test -e alive; do sleep 0.01; done"
        assert _run(executor, environment, code).exit_code == 0
        sizes = {_run(executor, environment, "wc -c < alive").stdout}
        time.sleep(0.1)  # Five times as long as the daemon would need to write.
        sizes.add(_run(executor, environment, "wc -c < alive").stdout)
        assert len(sizes) == 1

    def test_calls_run_concurrently(self, executor: Executor, environment: Environment) -> None:
        """Two programs of one environment run at the same time, and see each other's files."""
        meet = "touch {0}; while ! test -e {1}; do sleep 0.01; done; echo met"
        with ThreadPoolExecutor(2) as pool:
            codes = [meet.format("a", "b"), meet.format("b", "a")]
            results = list(pool.map(lambda code: _run(executor, environment, code), codes))
        assert [result.stdout for result in results] == ["met\n", "met\n"]

    @pytest.mark.parametrize(
        "name",
        ["--index-url=x", "-r", "a b", "a;b", "../a", "/a", "a@file:///b", "git+https://a", ""],
    )
    def test_invalid_package_is_refused(
        self, executor: Executor, environment: Environment, name: str
    ) -> None:
        """What is not the name of a package is refused, and never reaches an installer."""
        with pytest.raises(ValueError, match="package"):
            executor.install(environment, [name], timeout=_TIMEOUT, stop=lambda: Stop.NONE)

    def test_closed_executor_runs_nothing(
        self, executor: Executor, environment: Environment
    ) -> None:
        """Closing stops what runs, and everything afterwards is refused."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(_run, executor, environment, f"touch begun; {_ENDLESS}")
            begun = "test -e begun && echo yes"
            while _run(executor, environment, begun).stdout != "yes\n":
                time.sleep(0.01)
            executor.close()
            executor.close()
            assert running.result(timeout=30).stopped is Stop.SHUTDOWN
        with pytest.raises(Exception, match="ending"):
            _run(executor, environment, "true")


def _run(
    executor: Executor,
    environment: Environment,
    code: str,
    language: Runtime = Runtime.SHELL,
    *,
    timeout: timedelta = _TIMEOUT,
    stop: Callable[[], Stop] = lambda: Stop.NONE,
) -> Execution:
    return executor.execute(environment, code, language, timeout=timeout, stop=stop)
