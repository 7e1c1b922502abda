#!/usr/bin/env bash
# Sets up and runs the DLMS connector for the ThingsBoard IoT Gateway. `./setup_gateway.sh help` tells the commands.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
VENV=${DLMS_VENV:-$HERE/.venv}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'setup_gateway.sh: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3.10 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "Python 3.10 to 3.13 is needed (set PYTHON=/path/to/python3)"
}

# make_environment EXTRAS: the virtual environment with this checkout installed in it.
make_environment() {
  if [ ! -x "$VENV/bin/python" ]; then
    say "Making a virtual environment in $VENV"
    "$(find_python)" -m venv "$VENV" || fail "no virtual environment: on Debian and Ubuntu, apt-get install python3-venv"
  fi
  local stamp="$VENV/.dlms-installed-$1"
  if [ ! -e "$stamp" ] || [ "$HERE/pyproject.toml" -nt "$stamp" ]; then
    say "Installing the connector and the gateway (a minute or two the first time)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable "${HERE}[$1]"
    touch "$stamp"
  fi
}

command_demo() {
  make_environment gateway
  exec "$VENV/bin/dlms-connector" demo "$@"
}

command_test() {
  make_environment dev
  cd "$HERE"
  exec "$VENV/bin/python" -m pytest "$@"
}

command_help() {
  cat <<'TEXT'
Usage: ./setup_gateway.sh COMMAND

  demo [--once] [--host HOST --token-file FILE]
             three simulated meters through the real gateway, shown live; or into your ThingsBoard
  test       set up everything and run the test suite
  help       this text
TEXT
}

case "${1:-help}" in
  demo | test | help)
    name=$1
    shift
    "command_$name" "$@"
    ;;
  -h | --help) command_help ;;
  *) fail "unknown command '$1'; ./setup_gateway.sh help tells them all" ;;
esac
