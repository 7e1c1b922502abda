# shellcheck shell=bash
# Which kind of gateway this is, and where its parts are.
#
# MODE fresh:  a gateway of our own.        MODE deb: the Debian package.
# MODE venv:   pip in somebody's virtual environment.   MODE volume: a container's volume.

ROOT='' MODE=''
SERVICE_USER=tb-gateway
OWNER='' # numeric uid:gid of SERVICE_USER, empty when files belong to whoever runs this
EXTENSIONS='' CONFIG='' STATE='' LOGS='' GATEWAY_PYTHON='' GATEWAY_VENV='' VOLUME=''
CONTAINER_PYTHON=3.11

choose_layout() {
  ROOT=${ROOT%/}
  CONFIG=$ROOT/etc/thingsboard-gateway/config
  STATE=$ROOT/var/lib/thingsboard_gateway
  LOGS=$ROOT/var/log/thingsboard-gateway
  EXTENSIONS=$STATE/extensions
  LEDGER=$ROOT/var/lib/dlms-gateway
  PREFIX=$ROOT/opt/dlms-gateway
  UNITS=$ROOT/etc/systemd/system
  ENV_FILE=$ROOT/etc/thingsboard-gateway/tb-gateway.env
  SERVICE=tb-gateway
  if [ -n "$VOLUME" ]; then
    MODE=volume
    VOLUME=$(cd "$VOLUME" 2>/dev/null && pwd) || fail unreadable "$VOLUME"
    EXTENSIONS=$VOLUME/extensions CONFIG=$VOLUME/config LOGS=$VOLUME/logs LEDGER=$VOLUME/.dlms-gateway
    return
  fi
  MODE=$(manifest_value mode)
  if [ -n "$GATEWAY_VENV" ]; then
    MODE=venv
  elif [ "$MODE" = venv ]; then
    GATEWAY_VENV=$(manifest_value gateway)
  elif [ -z "$MODE" ] && [ -d "$STATE/venv" ]; then
    MODE=deb
  fi
  case ${MODE:=fresh} in
    deb) GATEWAY_VENV=$STATE/venv SERVICE=thingsboard-gateway ;;
    venv) SERVICE='' ;;
    fresh)
      GATEWAY_VENV=$PREFIX/venv
      local former_user
      former_user=$(manifest_value user)
      SERVICE_USER=${former_user:-$SERVICE_USER}
      ;;
  esac
  GATEWAY_PYTHON=$GATEWAY_VENV/bin/python3
  find_owner
}

# user_field NAME FIELD: of the passwd file below the root if there is one, else of this system.
user_field() {
  if [ -n "$ROOT" ] && [ -f "$ROOT/etc/passwd" ]; then
    awk -F: -v name="$1" -v field="$2" '$1 == name { print $field }' "$ROOT/etc/passwd"
  else
    getent passwd "$1" | cut -d: -f"$2"
  fi
}

find_owner() {
  OWNER=
  [ "$MODE" = fresh ] && [ "$(id -u)" = 0 ] && [ -n "$(user_field "$SERVICE_USER" 3)" ] || return 0
  OWNER=$(user_field "$SERVICE_USER" 3):$(user_field "$SERVICE_USER" 4)
}

# make_user: a system user; below a root without accounts there is none to make.
make_user() {
  find_owner
  [ -z "$OWNER" ] || return 0
  if [ "$(id -u)" != 0 ] || { [ -n "$ROOT" ] && [ ! -f "$ROOT/etc/passwd" ]; }; then return 0; fi
  if [ -n "$DRY_RUN" ]; then
    say would "user $SERVICE_USER"
    return
  fi
  local more=(--user-group) group=made
  if has_group "$SERVICE_USER"; then more=(--gid "$SERVICE_USER") group=found; fi
  if has_group dialout; then more+=(--groups dialout); fi
  record user "$SERVICE_USER" "$group"
  useradd ${ROOT:+--prefix "$ROOT"} --system --no-create-home --home-dir /var/lib/thingsboard_gateway \
    --shell /usr/sbin/nologin "${more[@]}" "$SERVICE_USER"
  say made "user $SERVICE_USER"
  find_owner
}

has_group() { grep -qs "^$1:" "$ROOT/etc/group"; }

remove_user() { # NAME made|found, which is about the group of this name
  userdel ${ROOT:+--prefix "$ROOT"} "$1" 2>/dev/null
  if [ "$2" = made ] && has_group "$1"; then groupdel ${ROOT:+--prefix "$ROOT"} "$1"; fi
}

# as_service COMMAND...: with the rights of the service's user, where this process can give them.
as_service() {
  if [ -n "$OWNER" ] && [ "$(id -u)" = 0 ]; then
    setpriv --reuid="${OWNER%:*}" --regid="${OWNER#*:}" --clear-groups -- "$@"
  else
    "$@"
  fi
}

# as_anybody COMMAND...: with the rights that every user has.
as_anybody() {
  if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; else "$@"; fi
}

has_systemd() { [ -z "$ROOT" ] && [ -d /run/systemd/system ]; }

# connector as_service|env COMMAND...: dlms-connector in the gateway's environment, the vendored packages behind its own.
connector() {
  local as=$1
  shift
  [ -x "$GATEWAY_PYTHON" ] || fail no_packages
  "$as" "$GATEWAY_PYTHON" -I -B -c \
    'import sys; sys.path.append(sys.argv.pop(1)); from dlms_connector.cli.main import main; main()' \
    "$EXTENSIONS/custom/vendor" "$@"
}
