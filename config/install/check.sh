# shellcheck shell=bash
# check: one line a question, and what to do where the answer is no. Also the service's own commands.

FAILED=0

good() { say check_ok "$(phrase "$@")"; }
note() { say check_note "$(phrase "$@")"; }
bad() { # NAME VALUE... -- NAME_OF_REMEDY VALUE...
  local question=()
  while [ "$1" != -- ]; do
    question+=("$1")
    shift
  done
  shift
  say check_bad "$(phrase "${question[@]}")"
  say check_todo "$(phrase "$@")"
  FAILED=$((FAILED + 1))
}

# indented COMMAND...: its output behind a margin, its status.
indented() { "$@" 2>&1 | sed 's/^/      /'; }

command_check() {
  [ "$MODE" = volume ] || [ -x "$GATEWAY_PYTHON" ] || fail no_packages
  [ ! -e "$CONFIG" ] || [ -r "$CONFIG/." ] || fail need_rights "$CONFIG"
  load_environment
  check_loader
  check_configuration
  [ "$MODE" = volume ] || check_server
  check_clock
  [ "$MODE" = volume ] || [ -z "$SERVICE" ] || check_service
  check_log
  if [ "$FAILED" -gt 0 ]; then
    say c_result_bad "$FAILED"
    exit 1
  fi
  say c_result_ok
}

# load_environment: what the service sees; exported, because a secret has no place on a command line.
load_environment() {
  local name value
  [ -r "$ENV_FILE" ] || return 0
  while IFS='=' read -r name value; do
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
    if [[ $value == \'*\' || $value == \"*\" ]]; then value=${value:1:-1}; fi
    case $name in PATH | HOME | LD_* | BASH_*) ;; *) export "$name=$value" ;; esac
  done <"$ENV_FILE"
  if [ -d "/run/credentials/$SERVICE.service" ]; then export CREDENTIALS_DIRECTORY=/run/credentials/$SERVICE.service; fi
}

check_loader() {
  if [ "$MODE" = volume ]; then
    local version
    version=$(cat "$EXTENSIONS/custom/vendor/.python-version" 2>/dev/null || echo '?')
    if [ -f "$EXTENSIONS/custom/dlms_extension.py" ] && [ -d "$EXTENSIONS/custom/vendor/dlms_connector" ]; then
      good c_volume "$version"
      say check_todo "$(phrase c_volume_do)"
    else
      bad c_volume "$version" -- c_loader_do
    fi
  elif indented connector as_service extension check; then
    good c_loader
  else
    bad c_loader -- c_loader_do
  fi
}

# configuration_files: of the connectors of our class, as tb_gateway.json names them (a save in ThingsBoard renames them).
configuration_files() {
  "$([ "$MODE" = volume ] && find_python env || printf '%s' "$GATEWAY_PYTHON")" -I -c 'import json, sys
for entry in json.load(open(sys.argv[1])).get("connectors", []):
    if entry.get("class") == "DLMSConnector": print(entry["configuration"])' "$CONFIG/tb_gateway.json" 2>/dev/null
}

check_configuration() {
  local files file
  files=$(configuration_files) || true
  if [ -n "$files" ]; then good c_entry; else bad c_entry -- c_entry_do "$ENTRY"; fi
  while IFS= read -r file; do
    [ -n "$file" ] || continue
    if [ ! -f "$CONFIG/$file" ]; then
      bad c_no_config "$CONFIG/$file" -- c_config_do
    elif [ "$MODE" = volume ]; then
      continue
    elif indented connector as_service check --secrets "$CONFIG/$file"; then
      good c_config "$CONFIG/$file"
    else
      bad c_config "$CONFIG/$file" -- c_config_do
    fi
  done <<<"$files"
  [ -f "$ENV_FILE" ] || return 0
  case $(stat -c %a "$ENV_FILE") in
    600 | 400) good c_modes "$ENV_FILE" ;;
    *) bad c_modes "$ENV_FILE" -- c_modes_do "$ENV_FILE" ;;
  esac
}

check_server() {
  if indented connector as_service extension server "$CONFIG"; then good c_server; else bad c_server -- c_server_do; fi
}

check_clock() {
  local synchronised
  synchronised=$(timedatectl show --property NTPSynchronized --value 2>/dev/null) || true
  if [ "$(date +%s)" -lt "$(stat -c %Y "$PINS")" ] || [ "$synchronised" = no ]; then
    bad c_clock -- c_clock_do
  elif [ "$synchronised" = yes ]; then
    good c_clock
  else
    note c_clock_unknown "$(date '+%F %T %Z')"
  fi
}

check_service() {
  if ! has_systemd; then
    note c_no_service
  elif systemctl is-active --quiet "$SERVICE"; then
    good c_service "$SERVICE"
  else
    bad c_service "$SERVICE" -- c_service_do
  fi
}

# check_log: one meter that is off is no fault of the install, so errors are told and do not fail the check.
check_log() {
  local errors
  errors=$(find "$LOGS" -maxdepth 1 -name '*.log' -exec awk -v since="$(date -d '-1 hour' '+%F %T')" \
    'substr($0, 1, 19) >= since && /\|(ERROR|CRITICAL)\|/' {} + 2>/dev/null | sort | tail -n 3)
  if [ -z "$errors" ]; then
    good c_errors
  else
    note c_errors_do
    indented printf '%s\n' "$errors"
  fi
}

# service_command start|stop|restart|status
service_command() {
  if [ -z "$SERVICE" ] || [ "$MODE" = volume ]; then fail other_service "$MODE"; fi
  has_systemd || fail no_systemd "$GATEWAY_VENV/bin/thingsboard-gateway"
  exec systemctl "$1" "$SERVICE"
}

command_logs() {
  if [ -n "$SERVICE" ] && [ "$MODE" != volume ] && has_systemd; then
    exec journalctl --unit "$SERVICE" --lines 100 "$@"
  fi
  compgen -G "$LOGS/*.log" >/dev/null || fail unreadable "$LOGS/*.log"
  exec tail -n 50 "$@" "$LOGS"/*.log
}
