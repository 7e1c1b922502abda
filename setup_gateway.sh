#!/usr/bin/env bash
# Sets up and runs the DLMS connector for the ThingsBoard IoT Gateway. `./setup_gateway.sh help` tells the commands.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
VENV=${DLMS_VENV:-$HERE/.venv}
DRY_RUN='' YES='' PURGE=''

# shellcheck source=config/install/messages.sh
. "$HERE/config/install/messages.sh"
# shellcheck source=config/install/ledger.sh
. "$HERE/config/install/ledger.sh"
# shellcheck source=config/install/layout.sh
. "$HERE/config/install/layout.sh"
# shellcheck source=config/install/packages.sh
. "$HERE/config/install/packages.sh"
# shellcheck source=config/install/install.sh
. "$HERE/config/install/install.sh"
# shellcheck source=config/install/check.sh
. "$HERE/config/install/check.sh"

# make_environment EXTRAS: the virtual environment with this checkout installed in it.
make_environment() {
  local python stamp="$VENV/.dlms-installed-$1"
  if [ ! -x "$VENV/bin/python" ]; then
    say making_venv "$VENV"
    python=$(find_python env)
    "$python" -m venv "$VENV" || fail need_venv
  fi
  if [ ! -e "$stamp" ] || [ "$HERE/pyproject.toml" -nt "$stamp" ]; then
    say installing_venv
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

# command_migrate: with the installed connector if there is one, else with this folder's.
command_migrate() {
  choose_layout
  if is_installed && [ "$MODE" != volume ]; then
    connector env migrate "$@"
  else
    make_environment gateway
    exec "$VENV/bin/dlms-connector" migrate "$@"
  fi
}

# parse_options: sets the variables of the same names; everything that is no option stays in REST.
REST=()
parse_options() {
  ROOT=${DESTDIR-}
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) DRY_RUN=1 ;;
      --yes | -y) YES=1 ;;
      --purge) PURGE=1 ;;
      --host | --port | --token-file | --ca | --wheelhouse | --gateway-venv | --volume | --container-python | --user | --root)
        [ $# -gt 1 ] || fail value_missing "$1"
        take_value "$1" "$2"
        shift
        ;;
      *) REST+=("$1") ;;
    esac
    shift
  done
}

take_value() {
  case $1 in
    --host) HOST=$2 ;;
    --port) PORT=$2 ;;
    --token-file) TOKEN_FILE=$2 ;;
    --ca) CA=$2 ;;
    --wheelhouse) WHEELHOUSE=$2 ;;
    --gateway-venv) GATEWAY_VENV=$(cd "$2" 2>/dev/null && pwd) || fail not_a_gateway "$2" ;;
    --volume) VOLUME=$2 ;;
    --container-python) CONTAINER_PYTHON=$2 ;;
    --user) SERVICE_USER=$2 ;;
    --root) ROOT=$(realpath -m "$2") ;;
  esac
}

main() {
  local name=${1:-help}
  [ $# -eq 0 ] || shift
  case $name in
    demo | test | migrate)
      "command_$name" "$@"
      ;;
    install | upgrade | uninstall | check | logs | status | start | stop | restart | wheelhouse)
      umask 077
      parse_options "$@"
      case $name in
        logs) ;;
        wheelhouse) [ ${#REST[@]} -eq 1 ] || fail value_missing wheelhouse ;;
        *) [ ${#REST[@]} -eq 0 ] || fail unknown_option "${REST[0]}" ;;
      esac
      choose_layout
      case $name in
        status | start | stop | restart) service_command "$name" ;;
        *) "command_$name" "${REST[@]}" ;;
      esac
      ;;
    help | -h | --help) say help ;;
    *) fail unknown_command "$name" ;;
  esac
}

main "$@"
