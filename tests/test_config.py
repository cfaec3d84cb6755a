# SPDX-License-Identifier: Apache-2.0
"""The settings: valid and invalid values of the environment variables."""

from dataclasses import FrozenInstanceError
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle_fsstore import SettingError
from waggle_fsstore.config import Settings
from waggle_fsstore.domain.access_token import AccessToken
from waggle_fsstore.domain.size import Size

PREFIX = "WAGGLE_"
ALLOWED = "WAGGLE_ALLOWED_HOSTS"
ORIGINS = "WAGGLE_ALLOWED_ORIGINS"
VARIABLES = {
    "WAGGLE_LISTEN_ADDR",
    "WAGGLE_MAX_ENVIRONMENTS",
    "WAGGLE_DEFAULT_TIMEOUT_MIN",
    "WAGGLE_MAX_TIMEOUT",
    "WAGGLE_REAPER_INTERVAL",
    "WAGGLE_SSH_PORT_BASE",
    "WAGGLE_SSH_PORT_MAX",
    "WAGGLE_WORKSPACES",
    "WAGGLE_TRASH_KEEP",
    "WAGGLE_TRASH_MAX",
    ALLOWED,
    ORIGINS,
    "WAGGLE_AUTH_TOKEN",
    "WAGGLE_AUTH_TOKENS_FILE",
    "WAGGLE_ALLOW_ANONYMOUS",
}
DEFAULT = Settings(
    host="127.0.0.1",
    port=8080,
    max_environments=10,
    default_timeout=timedelta(minutes=30),
    max_timeout=timedelta(minutes=60),
    reaper_interval=timedelta(minutes=1),
    ssh_ports=range(10_000, 11_001),
    allowed_hosts=(),
)


def from_variables(**variables: str) -> Settings:
    return Settings.from_env({PREFIX + name: value for name, value in variables.items()})


def refused(**variables: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        from_variables(**variables)
    return caught.value


def test_settings_have_defaults() -> None:
    """Without any variable, the documented defaults apply."""
    assert from_variables() == DEFAULT
    assert from_variables().is_loopback


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_empty_variable_counts_as_unset(text: str) -> None:
    """A variable that is empty or blank sets nothing."""
    assert Settings.from_env(dict.fromkeys(VARIABLES, text)) == DEFAULT


def test_settings_default_to_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, the variables are those of the process."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert Settings.from_env() == DEFAULT
    monkeypatch.setenv("WAGGLE_MAX_ENVIRONMENTS", "3")
    assert Settings.from_env().max_environments == 3


def test_unknown_variables_are_ignored() -> None:
    """Variables that this version does not know have no effect."""
    assert from_variables(COLOUR="loud") == DEFAULT


def test_each_variable_sets_one_field() -> None:
    """Each variable sets its field; surrounding blanks do not count."""
    settings = from_variables(
        LISTEN_ADDR=" 0.0.0.0:9000 ",
        MAX_ENVIRONMENTS="25",
        DEFAULT_TIMEOUT_MIN="45",
        MAX_TIMEOUT="24h",
        REAPER_INTERVAL="1m30s",
        SSH_PORT_BASE="2000",
        SSH_PORT_MAX="2009",
        ALLOWED_HOSTS="waggle.local, 10.0.0.1:9000 ,,",
        ALLOWED_ORIGINS="https://App.example:8443,tauri://localhost",
        AUTH_TOKEN="0123456789abcdef",  # noqa: S106
        ALLOW_ANONYMOUS="1",
        HOST=" maja ",
        HOST_URL="https://maja.example:8443/",
        LOG_LEVEL="Warning",
        LOG_FORMAT="text",
    )
    assert settings == Settings(
        host="0.0.0.0",  # noqa: S104  # The subject of the test.
        port=9000,
        max_environments=25,
        default_timeout=timedelta(minutes=45),
        max_timeout=timedelta(hours=24),
        reaper_interval=timedelta(seconds=90),
        ssh_ports=range(2000, 2010),
        allowed_hosts=("waggle.local", "10.0.0.1:9000"),
        allowed_origins=("https://app.example:8443", "tauri://localhost"),
        tokens=(AccessToken.parse("0123456789abcdef"),),
        allow_anonymous=True,
        host_name="maja",
        host_url="https://maja.example:8443",
        log_level="warning",
        log_format="text",
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *(("HOST", text) for text in ("a b", "a\tb", "a" * 101)),
        *(("HOST_URL", text) for text in ("maja:8080", "ftp://maja", "http://", "http://a@b")),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_name_that_is_none_is_refused(variable: str, text: str) -> None:
    """A host name is one word, a URL has no credentials, and a choice is one of those listed."""
    with pytest.raises(SettingError, match=f"^WAGGLE_{variable}: "):
        from_variables(**{variable: text})


def test_settings_are_immutable() -> None:
    """No field can be assigned."""
    with pytest.raises(FrozenInstanceError):
        from_variables().port = 1  # type: ignore[misc]


LOOPBACK_ADDRESSES = {
    "127.0.0.1:8080": ("127.0.0.1", 8080),
    "127.9.9.9:1": ("127.9.9.9", 1),
    "localhost:65535": ("localhost", 65_535),
    "[::1]:8080": ("::1", 8080),
    "127.0.0.1:0": ("127.0.0.1", 0),
}
OPEN_ADDRESSES = {
    "0.0.0.0:80": ("0.0.0.0", 80),  # noqa: S104  # The subject of the test.
    "[::]:80": ("::", 80),
    ":80": ("", 80),
    "[]:80": ("", 80),
    "192.168.1.2:80": ("192.168.1.2", 80),
    "[fe80::1]:80": ("fe80::1", 80),
    "waggle.local:80": ("waggle.local", 80),
    "localhost.example:80": ("localhost.example", 80),
    "127.0.0.1.example:80": ("127.0.0.1.example", 80),
}


@pytest.mark.parametrize("text", LOOPBACK_ADDRESSES)
def test_loopback_address_is_recognised(text: str) -> None:
    """Only programs on this machine can connect."""
    settings = from_variables(LISTEN_ADDR=text)
    assert (settings.host, settings.port) == LOOPBACK_ADDRESSES[text]
    assert settings.is_loopback


@pytest.mark.parametrize("text", OPEN_ADDRESSES)
def test_open_address_is_recognised(text: str) -> None:
    """The address is accepted, and known to be reachable from other machines."""
    settings = from_variables(LISTEN_ADDR=text)
    assert (settings.host, settings.port) == OPEN_ADDRESSES[text]
    assert not settings.is_loopback


#: A digit for Python, but not in an address.
ONE = "\N{ARABIC-INDIC DIGIT ONE}"

INVALID_VALUES = {
    "LISTEN_ADDR": [
        *("8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+1"),
        *(
            "127.0.0.1:http",
            "::1:8080",
            "http://127.0.0.1:8080",
            "127.0.0.1:1_0",
            f"127.0.0.1:{ONE}",
        ),
        f"127.0.0.1:{'9' * 5_000}",
        "w\N{LATIN SMALL LETTER A WITH DIAERESIS}gle:80",
        "w\udcffgle:80",
    ],
    "MAX_ENVIRONMENTS": [
        "0",
        "-1",
        "+1",
        "1.5",
        "ten",
        "1_0",
        ONE,
        "1000001",
        "9" * 5_000,
    ],
    "DEFAULT_TIMEOUT_MIN": ["0", "61", "-30", "30m", "0.5", "½"],
    "MAX_TIMEOUT": ["0", "59s", "-1h", "60", "never!", "1000000h", "9" * 200],
    "REAPER_INTERVAL": ["0", "9ms", "-1m", "60", "1 m", "25h", "24h0.1s", "99999999h", "m"],
    "SSH_PORT_BASE": ["0", "65536", "ssh", "-1", "12000"],
    "SSH_PORT_MAX": ["0", "65536", "9999", "10000-11000"],
    "ALLOWED_HOSTS": [
        *("*", "http://waggle.local", "waggle.local/mcp", "a b", "ok,*.local"),
        *("waggle.local:", "waggle.local:http", "a@b", "[::1", "[::1]x"),
    ],
    "ALLOW_ANONYMOUS": ["2", "-1", "yes", "true", ONE],
    "ALLOWED_ORIGINS": ["*", "null", "app.example", "https://app.example/", "https://*.example"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in INVALID_VALUES.items() for text in texts]
)
def test_invalid_value_is_refused(name: str, text: str) -> None:
    """The error is one line that names the variable and shows a part of the value."""
    error = refused(**{name: text})
    expected = "SSH_PORT_MAX" if (name, text) == ("SSH_PORT_BASE", "12000") else name
    assert error.variable == PREFIX + expected
    assert str(error).startswith(f"{PREFIX}{expected}: ")
    assert len(str(error)) < 300
    assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["1x", "0", "-1m"])
def test_refused_interval_is_advised_valid_ones(text: str) -> None:
    """The error suggests only values that are accepted."""
    message = str(refused(REAPER_INTERVAL=text))
    assert message.endswith(f"{text!r} is not a duration from 10ms to 24h, such as 30s or 5m")


@pytest.mark.parametrize("text", ["1", "60"])
def test_timeout_limits_are_accepted(text: str) -> None:
    """A timeout can be from one minute to one hour."""
    assert from_variables(DEFAULT_TIMEOUT_MIN=text).default_timeout == timedelta(minutes=int(text))


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("1m", 1),
        ("90m", 90),
        ("24h", 24 * 60),
        ("876000h", 876_000 * 60),
        ("never", 0),
        ("Never", 0),
    ],
)
def test_longest_timeout_is_accepted(text: str, longest: int) -> None:
    """It is a duration from a minute to a century, or never, which is stored as zero."""
    settings = from_variables(MAX_TIMEOUT=text)
    assert settings.max_timeout == timedelta(minutes=longest)
    assert settings.default_timeout == timedelta(minutes=min(30, longest or 30))


def test_default_timeout_is_up_to_maximum() -> None:
    """The default may be as long as the longest timeout, and the error of a longer one names it."""
    settings = from_variables(DEFAULT_TIMEOUT_MIN="1440", MAX_TIMEOUT="24h")
    assert settings.default_timeout == timedelta(days=1)
    assert from_variables(DEFAULT_TIMEOUT_MIN="1440", MAX_TIMEOUT="never").default_timeout
    error = refused(DEFAULT_TIMEOUT_MIN="30", MAX_TIMEOUT="20m")
    assert (error.variable, error.reason) == (
        "WAGGLE_DEFAULT_TIMEOUT_MIN",
        "is above WAGGLE_MAX_TIMEOUT, which is 20m0s",
    )


@pytest.mark.parametrize("text", ["10ms", "24h", "1m", "0.5s"])
def test_interval_limits_are_accepted(text: str) -> None:
    """An interval can be from 10 ms to a day, written as in Go."""
    assert timedelta(milliseconds=10) <= from_variables(REAPER_INTERVAL=text).reaper_interval
    assert from_variables(REAPER_INTERVAL=text).reaper_interval <= timedelta(days=1)


def test_port_range_includes_both_ends() -> None:
    """A range of one port has that port."""
    assert list(from_variables(SSH_PORT_BASE="65535", SSH_PORT_MAX="65535").ssh_ports) == [65_535]


@given(st.sampled_from(sorted(VARIABLES)), st.text(st.characters(exclude_characters="\0")))
def test_any_text_is_accepted_or_refused_by_name(variable: str, text: str) -> None:
    """Any text is accepted, or refused with the name of the variable."""
    refused_variable = ""
    try:
        settings = Settings.from_env({variable: text})
    except SettingError as error:
        refused_variable = error.variable
    else:
        assert settings.max_environments >= 1
        assert timedelta(0) < settings.default_timeout <= timedelta(minutes=60)
        assert settings.reaper_interval > timedelta(0)
        assert len(settings.ssh_ports) > 0
    # A first port is invalid only in combination with the last one.
    related = {"WAGGLE_SSH_PORT_BASE": "WAGGLE_SSH_PORT_MAX"}
    assert refused_variable in {"", variable, related.get(variable, "")}


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_any_ip_address_is_accepted(address: object, port: int) -> None:
    """IPv6 is written in brackets, and only loopback addresses count as such."""
    from ipaddress import IPv6Address

    text = f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
    settings = from_variables(LISTEN_ADDR=text, ALLOWED_HOSTS="waggle.local")
    assert (settings.host, settings.port) == (str(address), port)
    assert settings.is_loopback == getattr(address, "is_loopback", None)


@given(st.integers(1, 65_535), st.integers(1, 65_535))
def test_any_port_range_has_ports(first: int, last: int) -> None:
    """A range whose end is below its beginning is refused."""
    if last < first:
        assert refused(SSH_PORT_BASE=str(first), SSH_PORT_MAX=str(last)).variable == (
            "WAGGLE_SSH_PORT_MAX"
        )
    else:
        assert from_variables(SSH_PORT_BASE=str(first), SSH_PORT_MAX=str(last)).ssh_ports == range(
            first, last + 1
        )


def test_trash_is_configured() -> None:
    """Files are kept for a day in a tenth of the file system, or as the variables say."""
    assert Settings().trash_keep == timedelta(hours=24)
    assert Settings().trash_max == Size(10, is_percent=True)
    settings = from_variables(TRASH_KEEP="1h30m", TRASH_MAX="2GiB", WORKSPACES="/data/workspaces")
    assert settings.trash_keep == timedelta(minutes=90)
    assert settings.trash_max == Size(2 << 30)
    assert settings.workspaces == "/data/workspaces"
    assert from_variables(TRASH_KEEP="0s").trash_keep == timedelta(0)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *(("TRASH_KEEP", text) for text in ("-1s", "a day", "24")),
        *(("TRASH_MAX", text) for text in ("-1", "101%", "x", "5XB", "1.", "10 %%")),
        *(("WORKSPACES", text) for text in ("workspaces", "${HOME}/workspaces", "~nobody-here/x")),
    ],
)
def test_bad_trash_setting_is_refused(variable: str, text: str) -> None:
    """An invalid value names its variable, and a path must be whole."""
    assert refused(**{variable: text}).variable == f"WAGGLE_{variable}"
