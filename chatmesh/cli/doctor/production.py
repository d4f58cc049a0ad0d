"""The production checklist: what a mesh for real people should have, beside working.

Pure: settings and facts in, findings out. `fail` is what loses messages, lets strangers in or stops
the mesh one day; `warn` is what may be right where you are and is worth a look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from chatmesh.cli.doctor.findings import Finding, fail, ok, warn
from chatmesh.cli.doctor.stores import StoreFacts
from chatmesh.cli.doctor.subjects import Subjects
from chatmesh.runtime.addresses import is_local

GOOD_HINT_KEY_CHARACTERS: Final = 32
_LOCAL_HOSTS: Final = (None, "", "localhost", "127.0.0.1", "::1")


def checklist(subjects: Subjects, facts: StoreFacts, environ: Mapping[str, str]) -> list[Finding]:
    """All rules, in the order in which they hurt."""
    found: list[Finding] = []
    chat, push = subjects.of("chat_svc"), subjects.of("push_svc")
    if chat is not None:
        found += [*login(chat.settings), *listeners(chat.settings)]
        found.append(hint_key(chat.settings))
    found += stores(subjects)
    if facts.postgres:
        found += postgres(facts)
    if facts.redis:
        found.append(redis_memory(facts.redis))
    found.append(nodes(facts))
    if push is not None:
        found.append(providers(push.settings))
    else:
        found.append(
            warn("push", "not looked at", "run it with push_svc's environment: `doctor chat push`")
        )
    found += watching(subjects, environ)
    return found


def login(settings: Any) -> list[Finding]:
    """Who may sign in."""
    remedy = "configure CHATMESH_ISSUERS with public keys, unset CHATMESH_DEV_SECRET"
    shared = [i.issuer for i in settings.issuers if i.secret is not None]
    found = [
        fail("login", "a development secret signs tokens", remedy)
        if settings.dev_secret is not None or shared
        else ok("login", f"{len(settings.issuers)} issuers with public keys")
    ]
    if settings.embedded:
        found.append(fail("embedded", "CHATMESH_EMBEDDED=true", "unset it: it allows secrets"))
    if settings.unknown_recipients == "make":
        said = "messages to unknown users make their accounts"
        found.append(warn("recipients", said, "CHATMESH_UNKNOWN_RECIPIENTS=refuse"))
    return found


def listeners(settings: Any) -> list[Finding]:
    """Encryption of both listeners."""
    mesh_remedy = "set CHATMESH_MESH_TLS_CA, _CERT and _KEY"
    if settings.mesh_tls_cert is not None:
        found = [ok("mesh TLS", "servers know each other by certificates")]
    elif settings.mesh_insecure:
        found = [warn("mesh TLS", "plain text is allowed off this machine", mesh_remedy)]
    else:
        found = [fail("mesh TLS", "none: servers do not know who calls them", mesh_remedy)]
    if settings.public_tls_cert is not None:
        found.append(ok("public TLS", "on"))
    else:
        said = "ends elsewhere" if settings.public_insecure else "none"
        level = warn if settings.public_insecure else fail
        remedy = "set CHATMESH_PUBLIC_TLS_CERT and _KEY, or see that your proxy ends TLS"
        found.append(level("public TLS", said, remedy))
    if settings.public_reflection:
        remedy = "CHATMESH_PUBLIC_REFLECTION=false"
        found.append(warn("reflection", "on at the public port", remedy))
    return found


def hint_key(settings: Any) -> Finding:
    """Whoever guesses it can make nodes show what nobody sent."""
    count = len(settings.hint_key.get_secret_value())
    if count < GOOD_HINT_KEY_CHARACTERS:
        return warn(
            "hint key", f"{count} characters", "openssl rand -hex 32, the same on all nodes"
        )
    return ok("hint key", "long enough")


def stores(subjects: Subjects) -> list[Finding]:
    """How the servers reach their stores."""
    found = []
    for service in ("chat_svc", "push_svc", "sequencer_svc"):
        server = subjects.of(service)
        if server is None:
            continue
        if not server.settings.postgres_durable:
            remedy = "unset CHATMESH_POSTGRES_DURABLE"
            found.append(fail(f"durable {service}", "a store that loses commits is taken", remedy))
        url = subjects.secret_of(service, "postgres_url")
        if url and _is_remote(url) and _sslmode(url) not in ("verify-full", "verify-ca"):
            said = f"sslmode={_sslmode(url) or 'prefer'} to another machine"
            found.append(warn(f"postgres TLS {service}", said, "?sslmode=verify-full in the URL"))
    url = subjects.secret_of("sync_svc", "redis_url")
    if url and _is_remote(url) and not url.startswith("rediss"):
        found.append(warn("redis TLS", "plain text to another machine", "use rediss://"))
    return found


def postgres(facts: StoreFacts) -> list[Finding]:
    """What must hold for the truth to survive."""
    said = facts.postgres
    found = []
    names = said["synchronous_standby_names"]
    if names:
        found.append(ok("failover", f"commits wait for {names}"))
    else:
        remedy = "set synchronous_standby_names, or never promote a standby that lags"
        level = fail if facts.standbys else warn
        text = f"{facts.standbys} standbys, and no commit waits for one"
        found.append(level("failover", text, remedy))
    if said["archive_mode"] == "off":
        remedy = "archive WAL or use your provider's point-in-time recovery: docs/backup.md"
        found.append(warn("backup", "PostgreSQL archives no WAL", remedy))
    else:
        found.append(ok("backup", "WAL is archived; restore it once a month: docs/backup.md"))
    if said["autovacuum"] != "on":
        found.append(fail("autovacuum", "off: heads bloat until commits crawl", "set it to on"))
    if said["data_checksums"] != "on":
        remedy = "pg_checksums --enable while it is stopped"
        found.append(warn("checksums", "a broken disk would not be noticed", remedy))
    if facts.is_superuser:
        remedy = "give each service a login of its own: docs/rights.md"
        found.append(fail("rights", "chat_svc logs in as a superuser", remedy))
    else:
        found.append(ok("rights", "chat_svc's login is no superuser"))
    return found


def redis_memory(memory: Mapping[str, Any]) -> Finding:
    """noeviction is asked for elsewhere; a bound is what keeps the machine."""
    most = int(memory.get("maxmemory", 0))
    if most == 0:
        return warn("redis memory", "no maxmemory", "set one that the machine has, with noeviction")
    return ok("redis memory", f"at most {most >> 20:,} MiB")


def nodes(facts: StoreFacts) -> Finding:
    """One node is none while it is replaced."""
    if facts.chat_nodes < 2:
        return warn("chat nodes", f"{facts.chat_nodes} live", "run two or more, on two machines")
    return ok("chat nodes", f"{facts.chat_nodes} live")


def providers(settings: Any) -> Finding:
    """Whether anybody who is offline hears of a message."""
    configured = {
        "fcm": settings.push_fcm_account is not None,
        "apns": settings.push_apns_key is not None,
        "web push": settings.push_vapid_key is not None,
        "webhooks": bool(settings.push_webhook_secrets),
    }
    names = [name for name, is_there in configured.items() if is_there]
    if settings.push_providers and "log" in settings.push_providers:
        remedy = "take log out of CHATMESH_PUSH_PROVIDERS"
        return fail("push", "texts of messages go into a log", remedy)
    if not names:
        return warn("push", "no provider: who is offline is not told", "docs/push.md")
    return ok("push", ", ".join(names))


def watching(subjects: Subjects, environ: Mapping[str, str]) -> list[Finding]:
    """Whether anybody would notice."""
    blind = [
        one.name
        for one in subjects.servers
        if one.settings is not None and not one.settings.metrics_listen
    ]
    found = []
    if blind:
        remedy = "set CHATMESH_METRICS_LISTEN and scrape it"
        found.append(warn("metrics", f"none of {', '.join(blind)}", remedy))
    if subjects.mesh is None and not environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        remedy = "set OTEL_EXPORTER_OTLP_ENDPOINT"
        found.append(warn("traces", "go nowhere", remedy))
    loud = [
        one.name for one in subjects.servers if getattr(one.settings, "log_level", "") == "debug"
    ]
    if loud:
        found.append(warn("logs", f"debug in {', '.join(loud)}", "CHATMESH_LOG_LEVEL=info"))
    return found


def _is_remote(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return True
    if parts.scheme == "unix" or parse_qs(parts.query).get("host", [""])[0].startswith("/"):
        return False
    return host not in _LOCAL_HOSTS and not is_local(f"{host}:1")


def _sslmode(url: str) -> str:
    try:
        return parse_qs(urlsplit(url).query).get("sslmode", [""])[0]
    except ValueError:
        return ""
