"""Random interleavings of writing, rotating, changing the key, crashing and starting again."""

import os
from contextlib import suppress

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mosaic_fleet import keyring, rotation
from mosaic_fleet.db.database import Database
from mosaic_fleet.errors import Conflict, DatabaseFailure
from mosaic_fleet.sealing import Box, generate_key
from tests.postgres.team import FaultyDatabase
from tests.postgres.vault import Vault

SLOTS = [f"p{i:05}" for i in range(4)]
FEW = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    derandomize="MOSAIC_TEST_PROVISIONED" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)


class Keys(RuleBasedStateMachine):
    """A vault, a process that lives long, and what every value must read as."""

    url = ""

    @initialize()
    def begin(self) -> None:
        """Empty the database and put a value into each slot."""
        with psycopg.connect(self.url) as connection:
            connection.execute("DELETE FROM llm_provider; DELETE FROM keyring")
        self.vault = Vault(Database(self.url, actor="test"), generate_key())
        self.new_key: str | None = None
        self.vault.fill(len(SLOTS))
        self.expected = {name: name for name in SLOTS}
        self.restart()

    @rule()
    def restart(self) -> None:
        """Start the process that lives long again."""
        self.db = Database(self.url, actor="process")
        self.box: Box = keyring.box(self.db, self.vault.secret_key)

    @rule(name=st.sampled_from(SLOTS), value=st.text("abc", min_size=1, max_size=5))
    def write(self, name: str, value: str) -> None:
        """Write a value with whatever ring the process has in memory."""
        self.vault.write(self.box, self.db, name, value)
        self.expected[name] = value

    @rule()
    def look(self) -> None:
        """Open everything in the process that lives long."""
        assert self.vault.read(self.box) == self.expected

    @rule(at=st.integers(1, 14), when=st.sampled_from(["begin", "commit", "answer"]))
    def crash(self, at: int, when: str) -> None:
        """Break a rotation off at one of its steps."""
        with suppress(DatabaseFailure, Conflict):
            self.vault.rotate(FaultyDatabase(self.url, at, when))

    @rule()
    def rotate(self) -> None:
        """Rotate; while there are two environment keys only a rotation that was broken off is ended."""
        begun = len(self.vault.ring) > 1
        try:
            done = self.vault.rotate()
        except Conflict:
            assert self.new_key
            assert not begun
            return
        assert begun or not self.new_key
        assert self.vault.kids == self.vault.ring.keys() == {done.kid}

    @precondition(lambda self: self.new_key is None)
    @rule()
    def rekey(self) -> None:
        """Add a new environment key; a second time changes nothing."""
        self.new_key = generate_key()
        assert rotation.rekey(self.vault.db, self.vault.secret_key, self.new_key)
        assert not rotation.rekey(self.vault.db, self.vault.secret_key, self.new_key)

    @precondition(lambda self: self.new_key is not None)
    @rule()
    def finish(self) -> None:
        """Start under the new key and shut the old one out."""
        assert self.new_key
        self.vault, self.new_key = Vault(self.vault.db, self.new_key), None
        self.restart()
        assert len(rotation.finish_rekey(self.vault.db, self.vault.secret_key)) == 1
        assert rotation.finish_rekey(self.vault.db, self.vault.secret_key) == []

    @invariant()
    def everything_reads(self) -> None:
        """A fresh process reads every value under each key that is in use; none is under a dropped data key."""
        for key in {self.vault.secret_key, self.new_key} - {None}:
            assert Vault(self.vault.db, str(key)).read(Vault(self.vault.db, str(key)).box) == self.expected
        assert self.vault.kids <= self.vault.ring.keys()
        assert list(self.vault.ring.values()).count(True) == 1


def test_every_value_reads_whatever_happens(database: Database) -> None:
    """After any sequence of steps every value reads as it was written last."""
    machine = type("Keys", (Keys,), {"url": database.url})
    run_state_machine_as_test(machine, settings=FEW)
