"""Settings: every bad value at once, values from files, no secret in any text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatmesh.runtime.settings import ServerSettings, SettingsError, check_address, is_local, load
from chatmesh.runtime.settings_public import PublicServerSettings

LISTEN = {"CHATMESH_MESH_LISTEN": "127.0.0.1:7011"}
SECRET = "not-a-secret-of-anybody-but-long-enough"


def problems_of(cls: type[ServerSettings], environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(cls, environ)
    return caught.value.problems


def test_defaults_need_only_the_listener() -> None:
    settings = load(ServerSettings, LISTEN)
    assert settings.mesh_listen == "127.0.0.1:7011"
    assert settings.log_level == "info"
    assert settings.trace_sample_ratio == 0.01
    assert settings.postgres_url is None


def test_all_bad_values_are_told_at_once() -> None:
    problems = problems_of(
        ServerSettings,
        {
            "CHATMESH_MESH_LISTEN": "nowhere",
            "CHATMESH_LOG_LEVEL": "loud",
            "CHATMESH_TRACE_SAMPLE_RATIO": "2",
            "CHATMESH_SHUTDOWN_GRACE_SECONDS": "soon",
            "CHATMESH_MESH_TLS_CA": "/does/not/exist.pem",
            "CHATMESH_REDIS_URL_FILE": "/does/not/exist",
        },
    )
    told = {line.split("=")[0].split(":")[0] for line in problems}
    assert told == {
        "CHATMESH_MESH_LISTEN",
        "CHATMESH_LOG_LEVEL",
        "CHATMESH_TRACE_SAMPLE_RATIO",
        "CHATMESH_SHUTDOWN_GRACE_SECONDS",
        "CHATMESH_MESH_TLS_CA",
        "CHATMESH_REDIS_URL_FILE",
    }
    assert "CHATMESH_MESH_LISTEN='nowhere': must be HOST:PORT or unix:/path. Address of" in str(
        SettingsError(problems)
    )


def test_a_missing_value_names_its_variable_and_help() -> None:
    (problem,) = problems_of(ServerSettings, {})
    assert problem.startswith("CHATMESH_MESH_LISTEN: Field required. Address of the mesh")


def test_a_file_holds_the_value(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:pass@localhost\n")
    settings = load(ServerSettings, {**LISTEN, "CHATMESH_REDIS_URL_FILE": str(file)})
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://:pass@localhost"


def test_value_and_file_together_are_refused(tmp_path: Path) -> None:
    environ = {**LISTEN, "CHATMESH_REDIS_URL": "x", "CHATMESH_REDIS_URL_FILE": str(tmp_path)}
    assert "both set" in problems_of(ServerSettings, environ)[0]


@pytest.mark.parametrize("path", ["/", "/dev/zero"])
def test_an_unreadable_file_is_told(path: str) -> None:
    (problem,) = problems_of(ServerSettings, {**LISTEN, "CHATMESH_REDIS_URL_FILE": path})
    assert problem.startswith("CHATMESH_REDIS_URL_FILE: cannot read")


def test_an_empty_variable_is_an_unset_one() -> None:
    settings = load(
        ServerSettings,
        {
            **LISTEN,
            "CHATMESH_REDIS_URL": "",
            "CHATMESH_METRICS_LISTEN": "",
            "CHATMESH_LOG_LEVEL": "",
        },
    )
    assert settings.redis_url is None
    assert settings.metrics_listen == ""


def test_secrets_are_in_no_text() -> None:
    settings = load(ServerSettings, {**LISTEN, "CHATMESH_POSTGRES_URL": "postgresql://u:pw@h/d"})
    assert "pw" not in repr(settings)
    assert "pw" not in str(settings)
    environ = {
        "CHATMESH_MESH_LISTEN": "127.0.0.1:1",
        "CHATMESH_PUBLIC_LISTEN": "127.0.0.1:2",
        "CHATMESH_EMBEDDED": "true",
        "CHATMESH_DEV_SECRET": "hunter2",
        "CHATMESH_ISSUERS": json.dumps(
            [{"issuer": "i", "audience": "a", "secret": "hunter2", "algorithms": ["HS256"]}]
        ),
    }
    text = str(SettingsError(problems_of(PublicServerSettings, environ)))
    assert "hunter2" not in text


def test_tls_files_come_together(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text("x")
    (problem,) = problems_of(ServerSettings, {**LISTEN, "CHATMESH_MESH_TLS_CA": str(pem)})
    assert "set all three or none" in problem


def test_plain_text_off_loopback_needs_a_word() -> None:
    environ = {"CHATMESH_MESH_LISTEN": "0.0.0.0:7011"}
    (problem,) = problems_of(ServerSettings, environ)
    assert "CHATMESH_MESH_INSECURE=true" in problem
    assert load(ServerSettings, {**environ, "CHATMESH_MESH_INSECURE": "true"}).mesh_insecure


@pytest.mark.parametrize("bad", ["x", ":1", "h:", "h:x", "h:70000", "h:-1", "unix:relative", "h:१"])
def test_bad_addresses(bad: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port|absolute"):
        check_address(bad)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("chat.example:1", False),
    ],
)
def test_what_is_local(address: str, local: bool) -> None:
    assert is_local(check_address(address)) is local


def public(**more: str) -> dict[str, str]:
    return {**LISTEN, "CHATMESH_PUBLIC_LISTEN": "127.0.0.1:7030", **more}


def issuer(**more: object) -> str:
    return json.dumps([{"issuer": "https://id.example", "audience": "chat", **more}])


def test_a_dev_secret_needs_embedded() -> None:
    (problem,) = problems_of(PublicServerSettings, public(CHATMESH_DEV_SECRET=SECRET))
    assert "CHATMESH_EMBEDDED=true" in problem
    settings = load(
        PublicServerSettings, public(CHATMESH_DEV_SECRET=SECRET, CHATMESH_EMBEDDED="true")
    )
    assert [i.algorithms for i in settings.token_issuers()] == [("HS256",)]


def test_one_key_family() -> None:
    environ = public(
        CHATMESH_DEV_SECRET=SECRET,
        CHATMESH_EMBEDDED="true",
        CHATMESH_ISSUERS=issuer(jwks_url="https://id.example/keys"),
    )
    assert "one key family" in problems_of(PublicServerSettings, environ)[0]


def test_somebody_must_be_able_to_log_in() -> None:
    assert "nobody could log in" in problems_of(PublicServerSettings, public())[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "exactly one of"),
        ({"jwks_url": "https://a", "secret": SECRET}, "exactly one of"),
        ({"jwks_url": "http://id.example/keys"}, "https"),
        ({"jwks_url": "https://user:pw@id.example/keys"}, "no password"),
        ({"jwks_url": "https://a", "algorithms": ["none"]}, "algorithms must be among"),
        ({"jwks_url": "https://a", "algorithms": ["HS256"]}, "algorithms must be among"),
        ({"jwks_url": "https://a", "algorithms": []}, "algorithms must be among"),
        ({"secret": SECRET, "algorithms": ["ES256"]}, "exactly HS256"),
        ({"secret": "short", "algorithms": ["HS256"]}, "32 bytes"),
        ({"jwks_url": "https://a", "color": "red"}, "Extra inputs"),
    ],
)
def test_bad_issuers(fields: dict[str, object], said: str) -> None:
    (problem,) = problems_of(
        PublicServerSettings, public(CHATMESH_ISSUERS=issuer(**fields), CHATMESH_EMBEDDED="true")
    )
    assert said in problem


def test_issuers_must_be_json() -> None:
    (first, *_) = problems_of(PublicServerSettings, public(CHATMESH_ISSUERS="[{"))
    assert first.startswith("CHATMESH_ISSUERS is not valid JSON")


def test_public_plain_text_off_loopback_needs_a_word() -> None:
    environ = {
        **public(CHATMESH_ISSUERS=issuer(jwks_url="https://a")),
        "CHATMESH_PUBLIC_LISTEN": "0.0.0.0:443",
    }
    assert "CHATMESH_PUBLIC_INSECURE=true" in problems_of(PublicServerSettings, environ)[0]
