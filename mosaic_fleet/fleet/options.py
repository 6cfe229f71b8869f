"""How a deploy is to be done, as who asks for it says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to deploy; `timeout` is seconds, `detach` does not wait for health.

    `fresh` are agents that may start with an empty memory where their volume is gone, `downgrade` are agents that may
    run an older OpenClaw than they have run.
    """

    timeout: float = 600
    prune: bool = False
    create_network: bool = False
    dry_run: bool = False
    detach: bool = False
    fresh: frozenset[str] = frozenset()
    downgrade: frozenset[str] = frozenset()
