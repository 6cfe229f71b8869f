"""How a deploy is told on the command line, in words and in JSON."""

import json

import pytest

from mosaic_fleet.cli.fleet_report import print_outcome
from mosaic_fleet.fleet.deploying import Change, Outcome

Capture = pytest.CaptureFixture[str]
SAVED = Outcome("team", [Change("carl", "save", ("replicas",))])


def test_a_number_that_is_only_saved_is_a_change_of_the_roster(capsys: Capture) -> None:
    """Nothing of it runs, so no health is told; JSON says that something changed."""
    print_outcome(SAVED, dry_run=False, json=False, quiet=False)
    assert capsys.readouterr().out == "save       carl (replicas)\nteam is changed in the roster\n"
    print_outcome(SAVED, dry_run=False, json=True, quiet=False)
    said = json.loads(capsys.readouterr().out)
    assert (said["changed"], said["agents"][0]["action"]) == (True, "save")


def test_a_dry_run_changes_nothing(capsys: Capture) -> None:
    """It tells what would be done and stops there."""
    print_outcome(SAVED, dry_run=True, json=False, quiet=False)
    assert capsys.readouterr().out == "save       carl (replicas)\n"
    print_outcome(SAVED, dry_run=True, json=True, quiet=False)
    assert json.loads(capsys.readouterr().out)["changed"] is False
