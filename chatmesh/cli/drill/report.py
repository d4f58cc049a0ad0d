"""A drill's outcome as text for people; computes nothing."""

from chatmesh.cli.drill.outcome import Outcome


def text(outcome: Outcome) -> str:
    """A few lines."""
    traffic = outcome.traffic
    how = "drained" if outcome.plan.kind == "rolling" else "killed"
    head = (
        f"{len(outcome.replacements)} servers {how} and replaced in {outcome.seconds:.0f} s, "
        f"while {traffic.sent:,} of {outcome.planned:,} planned messages were sent"
    )
    counts = (
        f"lost {traffic.lost}, duplicated {traffic.duplicated}, out of order "
        f"{traffic.out_of_order}, errors {len(traffic.errors)}, reconnects {traffic.reconnects}"
    )
    lines = [head, counts, "longest gap in delivery:"]
    lines += [
        f"  {service:<14} {gap_ms:>8,.0f} ms"
        for service, gap_ms in outcome.longest_gap_ms().items()
    ]
    lines += [f"  error: {one}" for one in traffic.errors[:5]]
    return "\n".join(lines)
