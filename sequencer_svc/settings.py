"""Settings of sequencer_svc; each is an environment variable `CHATMESH_<FIELD>`."""

from __future__ import annotations

from pydantic import Field

from chatmesh.ids import PROJECT_EPOCH_MS, SnowflakeLayout
from chatmesh.runtime.settings import ServerSettings, rule


class SequencerSettings(ServerSettings):
    """What a sequencer needs to know."""

    sequencer_window_seconds: float = Field(default=10, ge=2, le=600)
    """Length of a worker's reserved window: so long ids go on while PostgreSQL is away, and so long
    the worker of a killed process stays taken. Seconds."""

    sequencer_worker: int | None = Field(default=None, ge=0)
    """A fixed worker number, for deployments that hand numbers out themselves; empty: any free one.
    A second process with the same number refuses to start."""

    sequencer_time_bits: int = Field(default=41, ge=1, le=62)
    """Bits of an id for its millisecond. One split per deployment, chosen before its first id."""

    sequencer_worker_bits: int = Field(default=10, ge=1, le=62)
    """Bits of an id for its worker. One split per deployment, chosen before its first id."""

    sequencer_sequence_bits: int = Field(default=12, ge=1, le=62)
    """Bits of an id for its number within the millisecond. One split per deployment."""

    sequencer_epoch_ms: int = Field(default=PROJECT_EPOCH_MS, ge=0)
    """Where the ids' time begins: ms since the Unix epoch. One epoch per deployment."""

    sequencer_extra_callers: tuple[str, ...] = ()
    """JSON list of further mesh services that may call, for other teams: ["billing_svc"]."""

    @rule("postgres_url")
    def _database(self) -> None:
        if self.postgres_url is None:
            raise ValueError(
                "CHATMESH_POSTGRES_URL is not set: worker numbers are reserved in PostgreSQL"
            )

    @rule(
        "sequencer_time_bits",
        "sequencer_worker_bits",
        "sequencer_sequence_bits",
        "sequencer_epoch_ms",
        "sequencer_worker",
    )
    def _split(self) -> None:
        try:
            layout = self.layout
        except ValueError as error:
            raise ValueError(
                f"CHATMESH_SEQUENCER_TIME_BITS, _WORKER_BITS, _SEQUENCE_BITS, _EPOCH_MS: {error}"
            ) from None
        worker = self.sequencer_worker
        if worker is not None and worker >= layout.workers:
            raise ValueError(
                f"CHATMESH_SEQUENCER_WORKER={worker} does not fit {layout.worker_bits} worker "
                f"bits: choose a number below {layout.workers}"
            )

    @property
    def layout(self) -> SnowflakeLayout:
        """How ids are split."""
        return SnowflakeLayout(
            self.sequencer_time_bits,
            self.sequencer_worker_bits,
            self.sequencer_sequence_bits,
            self.sequencer_epoch_ms,
        )
