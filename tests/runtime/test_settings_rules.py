"""Settings: what holds between fields is told beside bad fields, URLs and targets are looked at,
misspelt names are wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chatmesh import variables
from chatmesh.runtime.addresses import check_postgres_url, check_redis_url, check_target
from chatmesh.runtime.settings import ServerSettings, Settings, SettingsError, load, rule
from chatmesh.runtime.settings_public import PublicServerSettings
from chatmesh.runtime.variables import strangers
from tests.runtime.test_settings import problems_of

LISTEN = {"CHATMESH_MESH_LISTEN": "127.0.0.1:7011"}


class Pair(Settings):
    """Two numbers that must differ."""

    first: int
    second: int = 1

    @rule("first", "second")
    def _differ(self) -> None:
        if self.first == self.second:
            raise ValueError("CHATMESH_FIRST and CHATMESH_SECOND are equal")

    @rule("second")
    def _small(self) -> None:
        if self.second > 9:
            raise ValueError("CHATMESH_SECOND is above 9")


def told(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(Pair, environ)
    return [line.split(":")[0] for line in caught.value.problems]


def test_every_broken_rule_is_told() -> None:
    assert told({"CHATMESH_FIRST": "12", "CHATMESH_SECOND": "12"}) == [
        "CHATMESH_FIRST and CHATMESH_SECOND are equal",
        "CHATMESH_SECOND is above 9",
    ]


def test_rules_are_told_beside_bad_and_missing_fields() -> None:
    assert told({"CHATMESH_FIRST": "x", "CHATMESH_SECOND": "12"}) == [
        "CHATMESH_FIRST='x'",
        "CHATMESH_SECOND is above 9",
    ]
    assert told({"CHATMESH_SECOND": "12"}) == ["CHATMESH_FIRST", "CHATMESH_SECOND is above 9"]


def test_a_rule_about_a_bad_field_is_not_asked() -> None:
    assert told({"CHATMESH_FIRST": "1", "CHATMESH_SECOND": "x"}) == ["CHATMESH_SECOND='x'"]


def test_missing_issuers_and_bad_urls_stand_in_the_first_list() -> None:
    problems = problems_of(
        PublicServerSettings,
        {
            **LISTEN,
            "CHATMESH_PUBLIC_LISTEN": "0.0.0.0:7030",
            "CHATMESH_LOG_LEVEL": "loud",
            "CHATMESH_POSTGRES_URL": "http://secret",
            "CHATMESH_REDIS_URL": "redis://:secret@host:port",
        },
    )
    text = "\n".join(problems)
    assert len(problems) == 5
    for piece in ("LOG_LEVEL", "POSTGRES_URL: not a", "REDIS_URL: its port", "nobody could log in",
                  "CHATMESH_PUBLIC_LISTEN='0.0.0.0:7030'"):  # fmt: skip
        assert piece in text
    assert "secret" not in text


@pytest.mark.parametrize(
    "url",
    ["x", "http://h/d", "host=h dbname=d", "postgresql://h:port/d", "postgres://h:99999/d"],
)
def test_bad_postgres_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"PostgreSQL URL|its port"):
        check_postgres_url(url)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:p@h/d", "postgres://h1:1,h2:2/d", "postgresql:///d?host=%2Frun&port=5432"],
)
def test_good_postgres_urls(url: str) -> None:
    assert check_postgres_url(url) == url


@pytest.mark.parametrize("url", ["", "h:6379", "http://h", "redis://h:x", "redis://h?protocol=x"])
def test_bad_redis_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis"):
        check_redis_url(url)


@pytest.mark.parametrize(
    "url", ["redis://:p@h:1/0", "rediss://h", "unix://:p@/run/x.sock", "redis+cluster://h:1"]
)
def test_good_redis_urls(url: str) -> None:
    assert check_redis_url(url) == url


@pytest.mark.parametrize("target", ["", "host", "a b:1", "h:x", "1.2.3.4:1,host:2", "h:70000"])
def test_bad_targets(target: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is not"):
        check_target(target)


@pytest.mark.parametrize(
    "target", ["h:1", "dns:///h:1", "unix:/run/x", "1.2.3.4:1, 1.2.3.5:2", "xds:///chat"]
)
def test_good_targets(target: str) -> None:
    assert check_target(target) == target


def test_a_misspelt_name_is_wrong_and_a_strange_one_is_not() -> None:
    environ = {**LISTEN, "CHATMESH_LOG_LEVLE": "info", "CHATMESH_OUR_OWN_THING": "1"}
    with pytest.raises(SettingsError) as caught:
        load(ServerSettings, environ, known=variables.NAMES)
    assert caught.value.problems == [
        "CHATMESH_LOG_LEVLE: no setting has this name; did you mean CHATMESH_LOG_LEVEL?"
    ]
    (other,) = [one for one in strangers(environ, variables.NAMES) if one.meant is None]
    assert str(other) == "CHATMESH_OUR_OWN_THING: no setting has this name, it has no effect"


def test_names_of_other_servers_files_and_kubernetes_are_no_strangers() -> None:
    environ = {
        "CHATMESH_PUSH_APNS_KEY_FILE": "x",
        "CHATMESH_DATA": "x",
        "CHATMESH_CHAT_SERVICE_HOST": "10.0.0.1",
        "CHATMESH_CHAT_SERVICE_PORT_GRPC": "7030",
        "CHATMESH_CHAT_PORT": "tcp://10.0.0.1:7030",
        "CHATMESH_CHAT_PORT_7030_TCP_ADDR": "10.0.0.1",
        "PATH": "x",
    }
    assert strangers(environ, variables.NAMES) == []
    (one,) = strangers({"CHATMESH_HINT_KEYS_FILE": "x"}, variables.NAMES)
    assert one.meant == "CHATMESH_HINT_KEY_FILE"


def test_the_list_of_names_is_that_of_the_settings() -> None:
    done = subprocess.run(
        [sys.executable, "tools/variable_names.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
