#!/usr/bin/env bash
# Makes the checkout's virtual environment from its lock file; `venv.sh dev` adds what tests and checks need.
# A stamp is written last: without .ready whatever an interrupted run left is thrown away and made anew.
# shellcheck source=SCRIPTDIR/prelude.sh
. "$(dirname "${BASH_SOURCE[0]}")/prelude.sh"

cd "$root"
python=${PYTHON:-python3}
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet --no-input install --compile)

check_python() {
  has "$python" || apt_install python3 python3-venv
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Mosaic needs Python 3.11 or newer, $python is $("$python" -V 2>&1)" "make PYTHON=/path/to/python3.11 <verb>"
  # Debian's python3 comes without the part that puts pip into an environment.
  "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
}

base() {
  check_python
  say "   making the virtual environment .venv"
  [ -f .venv/.ready ] || rm -rf .venv
  rm -f .venv/.ready .venv/.dev
  quietly "$python" -m venv .venv || fail "the virtual environment could not be made"
  quietly "${pip[@]}" --require-hashes -r requirements.lock || fail "the packages of requirements.lock could not be installed"
  quietly "${pip[@]}" --no-build-isolation --no-deps -e . || fail "mosaic could not be installed into .venv"
  touch .venv/.ready
}

dev() {
  say "   adding what tests and checks need to .venv"
  quietly "${pip[@]}" --require-hashes -r requirements-dev.lock || fail "the packages of requirements-dev.lock could not be installed"
  touch .venv/.dev
}

"${1:-base}"
