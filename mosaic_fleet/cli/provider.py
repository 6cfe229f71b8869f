"""`mosaic provider`: the shared providers of the fleet, and with `--user` those of a user."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.cli import carrying, complete, examples, noun, prompts, proving
from mosaic_fleet.cli.output import Json, Quiet, QuietList, ago, document, note, progress, table
from mosaic_fleet.cli.proving import User
from mosaic_fleet.cli.spans import seconds
from mosaic_fleet.errors import Invalid

if TYPE_CHECKING:
    from mosaic_fleet.fleet.proofs import Accounts
    from mosaic_fleet.fleet.refreshing import Outcome

app = noun("Manage the shared LLM providers of the fleet, or a user's own.")

NewName = Annotated[str, typer.Argument(help="The provider's name, as model refs use it.")]
Name = Annotated[
    str, typer.Argument(help="The provider's name, as model refs use it.", autocompletion=complete.providers)
]
BaseUrl = Annotated[str | None, typer.Option("--base-url", help="Its address; built-in types know theirs.")]
FromStdin = Annotated[bool, typer.Option("--api-key-stdin", help="Read the API key from standard input.")]
FromFile = Annotated[Path | None, typer.Option("--api-key-file", help="Read the API key from a file.")]
Auth = Annotated[str | None, typer.Option("--auth", help="key, or login for accounts without a key.")]
ApiType = Annotated[str | None, typer.Option("--api-type", help="The protocol, where it is not the type's own.")]
DisplayName = Annotated[str | None, typer.Option("--display-name", help="The name people see.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model: ID[,name=…][,context=TOKENS][,max=TOKENS]; repeat for more."),
]
NoTest = Annotated[bool, typer.Option("--no-test", help="Save without a connection test.")]


@app.command(
    "add",
    epilog=examples(
        "mosaic provider add zai --type zai --model glm-5 --api-key-stdin < key",
        "mosaic provider add ollama --type ollama --base-url http://10.1.1.42:11434 --model cogito,context=128000",
    ),
)
def add(
    name: NewName,
    type: Annotated[str, typer.Option("--type", help="zai, openai, anthropic, ollama or custom.")],
    base_url: BaseUrl = None,
    api_key_stdin: FromStdin = False,
    api_key_file: FromFile = None,
    auth: Auth = None,
    api_type: ApiType = None,
    display_name: DisplayName = None,
    model: Models = None,
    no_test: NoTest = False,
    if_not_exists: Annotated[bool, typer.Option("--if-not-exists", help="Do nothing when it is there.")] = False,
    user: User = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Add a provider that passes a connection test. One that only containers can reach needs --no-test."""
    from mosaic_fleet.fleet import proofs, providers, vendors

    mosaic = Mosaic.from_env()
    values = _given(type=type, base_url=base_url, auth=auth, api_type=api_type, display_name=display_name)
    values |= _key(api_key_stdin, api_key_file) | ({"models": [_model(one) for one in model]} if model else {})
    whose = proving.accounts(mosaic, user, "add", name)

    def write(session: Any) -> bool:
        if if_not_exists and providers.find(session, whose.owner, name):
            return False
        providers.add(session, mosaic.box, whose.owner, name, values)
        return True

    with progress() as show:
        show(f"testing {name} …")
        saved = proofs.save(whose, name, write, test=not no_test)
    outcomes = _carried_out(mosaic, whose, user, changed=saved.changed)
    text = f"added {name}" if saved.changed else f"unchanged {name}"
    told = {"provider": name, "changed": saved.changed, "tested": saved.report is not None}
    document(told | ({"gateways": outcomes} if user else {}), text=text, json=json, quiet=quiet)
    carrying.tell(outcomes, quiet=quiet)
    if saved.changed and not quiet and "api_key" not in values and vendors.needs_key(type, auth or "key"):
        more = f" --user {user}" if user else ""
        note(f"{name} needs a key before agents can use it: mosaic provider set {name}{more} --api-key-stdin")
    if saved.report and not quiet and not model:
        proving.offer(name, saved.report, user)


@app.command(
    "list",
    epilog=examples("mosaic provider list", "mosaic provider list -q", "mosaic provider list --user ann --json"),
)
def list_(user: User = None, json: Json = False, quiet: QuietList = False) -> None:
    """List the shared providers, or a user's own."""
    columns = {
        "NAME": lambda row: row.name,
        "TYPE": lambda row: row.type,
        "BASE URL": lambda row: row.base_url or "built in",
        "KEY": _shown_key,
        "MODELS": lambda row: len(row.models),
        "ACTIVE": lambda row: row.is_active,
        "TESTED": _shown_test,
    }
    table("providers", proving.rows(Mosaic.from_env(), user), columns, json=json, quiet=quiet)


@app.command("show", epilog=examples("mosaic provider show zai", "mosaic provider show zai --json"))
def show(name: Name, user: User = None, json: Json = False) -> None:
    """Show one provider. Its key never comes back."""
    (row,) = proving.rows(Mosaic.from_env(), user, name)
    if json:
        document({"provider": row}, json=True)
        return
    document(
        {
            "name": row.name,
            "display name": row.display_name,
            "type": row.type,
            "base url": row.base_url or "built in",
            "api type": row.api_type,
            "auth": row.auth,
            "key": _shown_key(row),
            "models": [model["id"] for model in row.models],
            "active": row.is_active,
            "tested": _shown_test(row),
            "why": row.tested_reason,
            "changed": row.updated_at,
        }
    )


@app.command(
    "set",
    epilog=examples(
        "mosaic provider set zai --api-key-stdin < key",
        "mosaic provider set ollama --base-url http://10.1.1.42:11434",
        "mosaic provider set zai --model glm-5,context=200000 --remove-model glm-4",
    ),
)
def set_(
    name: Name,
    base_url: BaseUrl = None,
    api_key_stdin: FromStdin = False,
    api_key_file: FromFile = None,
    remove_key: Annotated[bool, typer.Option("--remove-key", help="Forget the API key.")] = False,
    auth: Auth = None,
    api_type: ApiType = None,
    display_name: DisplayName = None,
    model: Models = None,
    remove_model: Annotated[list[str] | None, typer.Option("--remove-model", help="A model's id.")] = None,
    active: Annotated[bool | None, typer.Option("--enable/--disable", help="Switch it on or off.")] = None,
    no_test: NoTest = False,
    user: User = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change a provider; a new key or address is tested. `--base-url ""` goes back to the built-in address.

    Another address needs the key again. Agents get the change with the next deploy, a user's gateway when it is idle.
    """
    from mosaic_fleet.fleet import proofs, providers

    mosaic = Mosaic.from_env()
    values = _given(base_url=base_url, auth=auth, api_type=api_type, display_name=display_name, is_active=active)
    key = _key(api_key_stdin, api_key_file)
    if remove_key and key:
        raise Invalid("--remove-key and a new key exclude each other")
    values |= {"api_key": None} if remove_key else key
    given = {one["id"]: one for one in map(_model, model or [])}
    whose = proving.accounts(mosaic, user, "set", name)

    def write(session: Any) -> bool:
        if given or remove_model:
            here = {one["id"]: one for one in providers.get(session, whose.owner, name).models}
            values["models"] = [one for key, one in (here | given).items() if key not in (remove_model or [])]
        return providers.set(session, mosaic.box, whose.owner, name, values)

    with progress() as show:
        show(f"testing {name} …")
        saved = proofs.save(whose, name, write, test=not no_test)
    outcomes = _carried_out(mosaic, whose, user, changed=saved.changed)
    text = f"changed {name}" if saved.changed else f"unchanged {name}"
    told = {"provider": name, "changed": saved.changed, "tested": saved.report is not None}
    document(told | ({"gateways": outcomes} if user else {}), text=text, json=json, quiet=quiet)
    carrying.tell(outcomes, quiet=quiet)
    if saved.changed and not (quiet or json or user):
        carrying.offer(mosaic, name)


@app.command(
    "test",
    epilog=examples(
        "mosaic provider test zai",
        "mosaic provider test zai --deep --model glm-5",
        "mosaic provider test ollama --save-models",
    ),
)
def prove(
    name: Name,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also have a model answer, stream and call a tool: costs a few tokens.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="The model that answers; the first unless given.")
    ] = None,
    save_models: Annotated[bool, typer.Option("--save-models", help="Add the models that it offers.")] = False,
    timeout: Annotated[str | None, typer.Option("--timeout", help="For all of it: 20s, or 2m with --deep.")] = None,
    user: User = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Test a provider: its address, its key, its models. A private address needs the setting egress.allow."""
    from mosaic_fleet.fleet import proofs

    if model and not deep:
        raise Invalid("--model says which model answers", hint="add --deep")
    span = seconds(timeout) if timeout else 120.0 if deep else 20.0
    options = proofs.Options(timeout=span, deep=deep, model=model, save_models=save_models)
    found = proving.tested(Mosaic.from_env(), user, name, options)
    if json:
        document({"provider": name, "tested": True, "saved": save_models, **vars(found)}, json=True)
    elif not quiet:
        proving.report(name, found)
        if not save_models:
            proving.offer(name, found, user)


@app.command("remove", epilog=examples("mosaic provider remove ollama", "mosaic provider remove ollama --yes"))
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    user: User = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove a provider and its key. Refused while an agent uses it, or its owner prefers it."""
    from mosaic_fleet.fleet import providers

    mosaic = Mosaic.from_env()
    whose = proving.accounts(mosaic, user, "remove", name)
    with whose.transaction() as session:
        providers.get(session, whose.owner, name)
    prompts.confirm(f"Remove provider {name} and its key?", yes=yes)
    with whose.transaction() as session:
        providers.remove(session, whose.owner, name)
    outcomes = _carried_out(mosaic, whose, user, changed=True)
    told = {"provider": name, "changed": True} | ({"gateways": outcomes} if user else {})
    document(told, text=f"removed {name}", json=json, quiet=quiet)
    carrying.tell(outcomes, quiet=quiet)


def _carried_out(mosaic: Mosaic, whose: "Accounts", user: str | None, *, changed: bool) -> "list[Outcome]":
    """Have a user's gateway follow; those of the fleet are their agents', which a deploy changes."""
    return carrying.refresh(mosaic, whose.owner) if user and changed else []


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _key(from_stdin: bool, file: Path | None) -> dict[str, Any]:
    from pydantic import SecretStr

    if from_stdin and file is not None:
        raise Invalid("--api-key-stdin and --api-key-file exclude each other")
    if not from_stdin and file is None:
        return {}
    return {"api_key": SecretStr(prompts.secret("API key", flags="--api-key", from_stdin=from_stdin, file=file))}


def _model(text: str) -> Mapping[str, Any]:
    """Read `ID[,name=…][,context=TOKENS][,max=TOKENS]`."""
    model_id, *options = text.split(",")
    columns = {"name": "name", "context": "contextWindow", "max": "maxTokens"}
    model: dict[str, Any] = {"id": model_id}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in columns:
            raise Invalid(f"model {text!r}: write ID[,name=…][,context=TOKENS][,max=TOKENS]")
        model[columns[key]] = int(value) if key != "name" and value.isdecimal() and len(value) < 16 else value
    return model


def _shown_key(row: Any) -> str | None:
    if not row.has_key:
        return "login" if row.auth == "login" else None
    return f"…{row.key_hint}" if row.key_hint else "set"


def _shown_test(row: Any) -> str | None:
    if row.tested_at is None:
        return None
    return f"{ago(row.tested_at)} {'ok' if row.tested_ok else 'failed'}"
