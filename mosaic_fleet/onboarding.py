"""First boot: makes ready what needs no package, daemon or download, and explains the rest."""

from mosaic_fleet import doctor, env_file
from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.doctor import Finding
from mosaic_fleet.errors import ConfigurationError, MosaicError
from mosaic_fleet.settings import Settings


def init(mosaic: Mosaic, *, create_network: bool, install: str | None = None) -> list[Finding]:
    """Make key, database and schema, then look at Docker; a second run changes nothing.

    With `install` it becomes the installation of that id first, as succession.succeed() does and refuses to.
    Raises ConfigurationError or DatabaseFailure when the first three cannot be had. What is wrong with Docker is
    only a warning: everything but the fleet works without it.
    """
    made = mosaic.embedded.create() if mosaic.embedded else False
    before, after = mosaic.db.upgrade()
    succeeded = _succeed(mosaic, install) if install is not None else []
    mosaic, key = _key(mosaic)
    mosaic.box.ring  # noqa: B018  # makes the keyring, or says that the key is another one's
    refused = _create_networks(mosaic) if create_network else []
    walls = _raise_walls(mosaic)
    told = {"key", *(finding.check for finding in refused)}
    findings = [_softened(finding) for finding in doctor.examine(mosaic) if finding.check not in told]
    return [
        *succeeded,
        key,
        *(_told(finding, made=made, before=before, after=after) for finding in findings),
        *refused,
        *walls,
    ]


def _succeed(mosaic: Mosaic, install: str) -> list[Finding]:
    """Become the installation whose database is gone: what it made in Docker is this one's then."""
    from mosaic_fleet.fleet import succession

    with mosaic.db.transaction(system=True) as session:
        changed = succession.succeed(session, install)
    return [Finding("ok", "installation", f"is {install} {'from now on' if changed else 'already'}")]


def _key(mosaic: Mosaic) -> tuple[Mosaic, Finding]:
    """Generate the key and write the env file, unless there is one or the database needs another."""
    from mosaic_fleet import keyring
    from mosaic_fleet.sealing import generate_key

    path = mosaic.settings.env_file
    if mosaic.settings.secret_key:
        return mosaic, Finding("ok", "secret key", "is set")
    with env_file.alone(path.parent):
        mosaic = Mosaic(Settings.from_env())  # another first run may have written it meanwhile, and sealed with it
        if mosaic.settings.secret_key:
            return mosaic, Finding("ok", "secret key", "is set")
        if kids := keyring.environment_kids(mosaic.db):
            raise ConfigurationError(
                f"MOSAIC_SECRET_KEY is not set, but this database is sealed under key {' or '.join(kids)}",
                hint=f"bring that key back, for instance into {path}",
            )
        env_file.put(path, "MOSAIC_SECRET_KEY", generate_key())
    text = f"written to {path} (0600). Back it up: without it stored keys are lost"
    return Mosaic(Settings.from_env()), Finding("ok", "secret key", text)


def _create_networks(mosaic: Mosaic) -> list[Finding]:
    """Make the networks; what keeps Docker from it is a finding, so that a new key is still told."""
    from mosaic_fleet.fleet import preflight

    with mosaic.reads() as reads:
        install = reads.install_id()
    try:
        preflight.swarm(mosaic.runtime)
        for name in doctor.networks(mosaic):
            preflight.network(mosaic.runtime, name, install, create=True)
    except MosaicError as error:
        return [Finding("warn", "network", error.message, error.hint)]
    return []


def _raise_walls(mosaic: Mosaic) -> list[Finding]:
    """Put the packet filter of users' gateways into force where Docker is this machine's; elsewhere it is nobody's."""
    from mosaic_fleet.fleet import walls

    try:
        if not mosaic.hosting.runtime.is_local:
            return []
        mosaic.hosting.runtime.engine()
    except MosaicError:
        return []  # the finding about Docker says it
    try:
        made = walls.stand(mosaic.hosting)
    except MosaicError as error:
        return [Finding("warn", "packet filter", f"{error.message}: users' gateways do not start", error.hint)]
    return [Finding("ok", "packet filter", "made just now" if made else "in force")]


def _softened(finding: Finding) -> Finding:
    """Keep a failure of the database; Docker's are a warning at first boot."""
    if finding.mark == "fail" and finding.check not in ("db", "schema"):
        return Finding("warn", finding.check, finding.text, finding.fix)
    return finding


def _told(finding: Finding, *, made: bool, before: str | None, after: str) -> Finding:
    """Say what this run did, where it did something."""
    text = finding.text
    if finding.check == "db" and made:
        text = f"{text}, made just now (set DATABASE_URL to use your own)"
    if finding.check == "schema" and before != after:
        text = f"{before or 'empty'} → {after}"
    return Finding(finding.mark, finding.check, text, finding.fix)
