"""Asks a user's own gateway something, waking it first: ask_user.py NAME TEXT."""

import sys

import httpx

from mosaic_fleet.bootstrap import Mosaic
from mosaic_fleet.errors import MosaicError
from mosaic_fleet.fleet import lifecycle


def ask(name: str, text: str) -> str:
    """Return the gateway's answer; raises MosaicError when it does not start, HTTPError when it does not answer."""
    mosaic = Mosaic.from_env()
    with mosaic.reads() as reads:
        user = reads.user(name).id
    found = lifecycle.ensure_running(mosaic.hosting, user)
    headers = {"authorization": f"Bearer {found.token.get_secret_value()}"}
    body = {"model": "openclaw", "messages": [{"role": "user", "content": text}]}
    with httpx.Client(trust_env=False, timeout=120) as http:
        answer = http.post(f"{found.url}/v1/chat/completions", headers=headers, json=body).raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


if __name__ == "__main__":
    try:
        print(ask(*sys.argv[1:]))
    except MosaicError as error:
        sys.exit(f"error: {error.message}\nhint:  {error.hint or 'mosaic gateway list'}")
