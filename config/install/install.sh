# shellcheck shell=bash
# install, upgrade and uninstall, step by step. Every step writes down what it makes (ledger.sh).

HOST='' PORT='' TOKEN_FILE='' CA='' TOKEN=''
SHIM=$HERE/dlms_connector/gateway/extension/dlms_extension.py
ENTRY='{"type": "custom", "name": "DLMS", "class": "DLMSConnector", "configuration": "dlms_connector.json"}'

command_install() {
  check_options
  case $MODE in
    fresh) say plan_fresh "$PREFIX" "$CONFIG" ;;
    *) say plan_dropin "$MODE" "$EXTENSIONS/custom" ;;
  esac
  if [ -n "$DRY_RUN" ]; then say dry_run; else confirm; fi
  begin
  if [ "$MODE" = fresh ]; then install_fresh; else install_dropin; fi
  if [ -z "$DRY_RUN" ]; then
    record fact mode "$MODE"
    record fact gateway "$GATEWAY_VENV"
    record fact user "$SERVICE_USER"
    commit
    finish
  fi
}

command_upgrade() {
  is_installed || fail not_installed
  command_install
}

check_options() {
  [ "$(id -u)" = 0 ] || [ -n "$ROOT" ] || [ "$MODE" = volume ] || [ -n "$DRY_RUN" ] || fail need_root
  case $MODE in
    deb | venv)
      "$GATEWAY_PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("thingsboard_gateway") is None)' \
        2>/dev/null || fail not_a_gateway "$GATEWAY_VENV"
      ;;
    volume) [ -d "$EXTENSIONS" ] || [ -d "$CONFIG" ] || fail not_a_gateway "$VOLUME" ;;
    fresh) check_server_options ;;
  esac
  # Known before minutes go into packages. The same file, put there by hand, is welcome.
  cmp -s "$SHIM" "$EXTENSIONS/custom/dlms_extension.py" || must_be_ours file "$EXTENSIONS/custom/dlms_extension.py"
  [ -z "$WHEELHOUSE" ] || WHEELHOUSE=$(cd "$WHEELHOUSE" 2>/dev/null && pwd) || fail unreadable "$WHEELHOUSE"
}

# check_server_options: host and token, asked for when a person is there, needed only where there is no configuration.
check_server_options() {
  local LC_ALL=C # ranges of characters mean ASCII
  [ -z "$CA" ] || [ -r "$CA" ] || fail unreadable "$CA"
  if [ -z "$HOST" ] && [ ! -e "$CONFIG/tb_gateway.json" ] && [ -z "$DRY_RUN" ]; then
    may_ask || fail no_host
    read -rp "$(phrase ask_host)" HOST
  fi
  [[ $HOST =~ ^[A-Za-z0-9._:-]*$ ]] || fail bad_host "$HOST"
  : "${PORT:=$([ -n "$CA" ] && echo 8883 || echo 1883)}"
  { [[ $PORT =~ ^[0-9]{1,5}$ ]] && [ "$PORT" -ge 1 ] && [ "$PORT" -le 65535 ]; } || fail bad_port "$PORT"
  if [ -n "$TOKEN_FILE" ]; then
    { TOKEN=$(head -c 4096 "$TOKEN_FILE"); } 2>/dev/null || fail unreadable "$TOKEN_FILE"
  elif [ ! -e "$ENV_FILE" ] && [ -z "$DRY_RUN" ]; then
    may_ask || fail no_token
    read -rsp "$(phrase ask_token)" TOKEN
    printf '\n'
  else
    return 0
  fi
  [[ $TOKEN =~ ^[!-~]+$ && $TOKEN != *[\'\"\\]* ]] || fail bad_token "${TOKEN_FILE:-/dev/tty}"
}

may_ask() { [ -z "$YES" ] && [ -t 0 ]; }

confirm() {
  may_ask || return 0
  local answer
  read -rp "$(phrase ask_continue)" answer
  case $answer in [yYsS]*) ;; *)
    say cancelled
    exit 0
    ;;
  esac
}

install_fresh() {
  if has_systemd; then record service tb-gateway "$(systemctl is-active tb-gateway || true)"; fi
  make_user
  make_dir "$ROOT/etc/thingsboard-gateway" 0755
  make_dir "$CONFIG" 0750 "$OWNER" data
  make_dir "$STATE" 0750 "$OWNER" data
  make_dir "$LOGS" 0750 "$OWNER" data
  fill_venv
  place_extension
  put_configuration
  put_token
  put_unit
  put_command
  [ -z "$DRY_RUN" ] || return 0
  must_load
  start_service
}

install_dropin() {
  make_dir "$EXTENSIONS" 0755
  make_dir "$EXTENSIONS/custom" 0755
  fill_vendor
  place_extension
  [ "$MODE" = volume ] || [ -n "$DRY_RUN" ] || must_load
}

# place_extension: /var/lib is what the loader searches first, and no upgrade of the gateway touches it.
place_extension() {
  make_dir "$EXTENSIONS" 0755
  make_dir "$EXTENSIONS/custom" 0755
  put_file "$SHIM" "$EXTENSIONS/custom/dlms_extension.py" 0644
  # The loader knows only the absolute path: below another root it gets there by a link in its own package.
  [ -n "$ROOT" ] && [ "$MODE" != volume ] && [ -z "$DRY_RUN" ] || return 0
  local package
  package=$("$GATEWAY_PYTHON" -c 'import importlib.util as u; print(u.find_spec("thingsboard_gateway").submodule_search_locations[0])')
  [ -e "$package/extensions/custom" ] || make_link "$EXTENSIONS/custom" "$package/extensions/custom"
}

put_configuration() {
  if [ ! -e "$CONFIG/tb_gateway.json" ] && [ -z "$DRY_RUN" ]; then
    work_folder
    "$GATEWAY_PYTHON" - "$HERE/config/tb_gateway.json" "$HOST" "$PORT" "${CA:+$CONFIG/ca.pem}" >"$WORK/tb_gateway.json" <<'PY'
import json, sys
template, host, port, ca = sys.argv[1:]
document = json.load(open(template))
document["thingsboard"].update(host=host, port=int(port))
if ca:
    document["thingsboard"]["security"] = {"type": "tlsAccessToken", "caCert": ca}
print(json.dumps(document, indent=2))
PY
    printf '{\n  "name": "DLMS",\n  "stateDirectory": "%s/dlms",\n  "devices": []\n}\n' "$STATE" >"$WORK/dlms_connector.json"
  fi
  [ -z "$CA" ] || put_file "$CA" "$CONFIG/ca.pem" 0640 "$OWNER" config
  put_file "${WORK-}/tb_gateway.json" "$CONFIG/tb_gateway.json" 0640 "$OWNER" config
  put_file "$HERE/config/logs.json" "$CONFIG/logs.json" 0640 "$OWNER" config
  put_file "${WORK-}/dlms_connector.json" "$CONFIG/dlms_connector.json" 0640 "$OWNER" config
}

put_token() {
  if [ -n "$DRY_RUN" ]; then
    [ -e "$ENV_FILE" ] || say would "$ENV_FILE"
    return
  fi
  [ -n "$TOKEN" ] || return 0
  work_folder
  printf "TB_GW_ACCESS_TOKEN='%s'\n" "$TOKEN" >"$WORK/env"
  [ ! -e "$ENV_FILE" ] || { grep -v '^TB_GW_ACCESS_TOKEN=' "$ENV_FILE" || true; } >>"$WORK/env"
  put_file "$WORK/env" "$ENV_FILE" 0600 "" replace-config
}

put_unit() {
  local unit=$HERE/tb-gateway.service
  if [ -z "$DRY_RUN" ]; then
    work_folder
    sed -e "s#/opt/dlms-gateway/#$PREFIX/#" -e "s#/etc/thingsboard-gateway/#$ROOT&#" \
      -e "s#/var/lib/thingsboard_gateway#$ROOT&#" -e "s#/var/log/thingsboard-gateway#$ROOT&#" \
      -e "s#^\(User\|Group\)=tb-gateway#\1=$SERVICE_USER#" "$unit" >"$WORK/unit"
    unit=$WORK/unit
  fi
  make_dir "$UNITS" 0755
  make_dir "$UNITS/multi-user.target.wants" 0755
  put_file "$unit" "$UNITS/tb-gateway.service" 0644
  make_link "$UNITS/tb-gateway.service" "$UNITS/multi-user.target.wants/tb-gateway.service"
}

# put_command: dlms-connector for the operator's shell, unless there is one.
put_command() {
  local command=$ROOT/usr/local/bin/dlms-connector
  make_dir "$ROOT/usr/local/bin" 0755
  if [ -L "$command" ] || [ ! -e "$command" ]; then make_link "$GATEWAY_VENV/bin/dlms-connector" "$command"; fi
}

must_load() {
  connector as_service extension check || fail loader_failed
}

start_service() {
  has_systemd || return 0
  record started tb-gateway
  systemctl daemon-reload
  systemctl restart tb-gateway
  local second
  for ((second = 0; second < 5; second++)); do # a gateway that cannot run ends within these
    sleep 1
    systemctl is-active --quiet tb-gateway || fail service_failed
  done
}

finish() {
  say all_made "$(manifest)"
  awk -F '\t' '$1 != "fact" { printf "  %-7s %s\n", $1, $2 }' "$(manifest)"
  case $MODE in
    fresh)
      has_systemd || say no_systemd "$GATEWAY_VENV/bin/thingsboard-gateway"
      say next_steps "$CONFIG/dlms_connector.json"
      ;;
    *)
      if ! grep -qs DLMSConnector "$CONFIG/tb_gateway.json"; then
        say add_entry
        printf '  %s\n' "$ENTRY"
      fi
      say restart_gateway
      ;;
  esac
}

command_uninstall() {
  if [ -f "$(journal)" ] && [ -z "$DRY_RUN" ]; then
    say interrupted
    roll_back
  fi
  is_installed || { [ -n "$PURGE" ] && [ -f "$(manifest)" ]; } || fail not_installed
  [ "$(id -u)" = 0 ] || [ -n "$ROOT" ] || [ "$MODE" = volume ] || [ -n "$DRY_RUN" ] || fail need_root
  if [ -n "$DRY_RUN" ]; then
    say dry_run
    tac "$(manifest)" | while IFS=$'\t' read -r kind path _; do
      case $kind:$PURGE in fact:* | config: | data: | user:) ;; *) say would_remove "$path" ;; esac
    done
    return
  fi
  confirm
  if has_systemd && [ "$MODE" = fresh ]; then systemctl disable --now tb-gateway || true; fi
  local remaining
  take_back_lines "$(manifest)" "$([ -n "$PURGE" ] && echo everything || echo made)"
  if has_systemd && [ "$MODE" = fresh ]; then systemctl daemon-reload; fi
  remaining=$(still_there <"$(manifest)" | grep -P '^(config|data|user|dir|fact\tuser)\t' || true)
  if [ -z "$PURGE" ] && grep -qP '^(config|data|user)\t' <<<"$remaining"; then
    # What stays is remembered, for a later install or uninstall --purge.
    printf '%s\n' "$remaining" >"$(manifest)"
    say kept_data
  else
    remove_ledger
  fi
  say uninstalled
}
