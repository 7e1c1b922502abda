# shellcheck shell=bash
# What setup_gateway.sh says: a name, English, Spanish. `say NAME VALUE...` prints it in the language of the locale.

declare -A MESSAGES=()
SPEAKS=en
case "${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}" in es*) SPEAKS=es ;; esac

message() {
  if [ "$SPEAKS" = es ]; then MESSAGES[$1]=$3; else MESSAGES[$1]=$2; fi
}

phrase() {
  local format=${MESSAGES[$1]}
  shift
  # shellcheck disable=SC2059 # the formats are the catalogue above, never what somebody typed
  printf "$format" "$@"
}
say() { printf '%s\n' "$(phrase "$@")"; }
warn() { printf '%s\n' "$(phrase "$@")" >&2; }
fail() {
  printf 'setup_gateway.sh: %s\n' "$(phrase "$@")" >&2
  exit 1
}

message unknown_command "unknown command '%s'; ./setup_gateway.sh help tells them all" \
  "orden desconocida '%s'; ./setup_gateway.sh help las muestra todas"
message unknown_option "unknown option '%s'" "opción desconocida '%s'"
message value_missing "%s needs a value" "%s necesita un valor"
message need_python "Python 3.10 to 3.13 with venv is needed, one that every user can run (apt-get install python3-venv, or PYTHON=/path/to/python3)" \
  "se necesita Python 3.10 a 3.13 con venv que todo usuario pueda ejecutar (apt-get install python3-venv, o PYTHON=/ruta/a/python3)"
message need_venv "no virtual environment could be made: on Debian and Ubuntu, apt-get install python3-venv" \
  "no se pudo crear el entorno virtual: en Debian y Ubuntu, apt-get install python3-venv"
message need_root "this changes the system: run it with sudo" "esto cambia el sistema: ejecútelo con sudo"
message need_rights "%s cannot be read: run it with sudo" "no se puede leer %s: ejecútelo con sudo"
message making_venv "Making a virtual environment in %s" "Creando un entorno virtual en %s"
message installing_venv "Installing the connector and the gateway (a minute or two the first time)" \
  "Instalando el conector y el gateway (uno o dos minutos la primera vez)"

message plan_fresh "A gateway of its own: packages in %s, configuration in %s, service tb-gateway" \
  "Un gateway propio: paquetes en %s, configuración en %s, servicio tb-gateway"
message plan_dropin "Into the existing gateway (%s): the extension goes to %s, nothing else is touched" \
  "En el gateway existente (%s): la extensión va a %s, no se toca nada más"
message ask_continue "Go on? [y/N] " "¿Continuar? [s/N] "
message ask_host "Host of ThingsBoard: " "Servidor de ThingsBoard: "
message ask_token "Access token of the gateway device (not shown): " \
  "Token de acceso del dispositivo gateway (no se muestra): "
message cancelled "Nothing was changed." "No se cambió nada."
message dry_run "Dry run: nothing is changed." "Simulacro: no se cambia nada."
message would "would make   %s" "se crearía     %s"
message would_replace "would update %s" "se actualizaría %s"
message would_packages "would put the pinned packages into %s" "se pondrían los paquetes con versión fija en %s"
message would_remove "would remove %s" "se borraría   %s"
message made "made    %s" "creado       %s"
message updated "updated %s" "actualizado  %s"
message kept "kept    %s (it was there)" "conservado   %s (ya existía)"
message removed "removed %s" "borrado      %s"
message no_host "which ThingsBoard? --host HOST" "¿cuál ThingsBoard? --host SERVIDOR"
message no_token "no access token: --token-file FILE" "falta el token de acceso: --token-file ARCHIVO"
message bad_token "the token in %s is not one line of printable characters without quotes" \
  "el token en %s no es una línea de caracteres imprimibles sin comillas"
message bad_port "'%s' is not a port" "'%s' no es un puerto"
message bad_host "'%s' is not a host name" "'%s' no es un nombre de servidor"
message unreadable "%s cannot be read" "no se puede leer %s"
message not_a_gateway "no thingsboard-gateway in %s" "no hay thingsboard-gateway en %s"
message not_ours "%s is there and is not from here: move it away first" \
  "%s ya existe y no es de aquí: muévalo primero"
message packages "Installing packages (a minute or two)" "Instalando paquetes (uno o dos minutos)"
message packages_same "Packages in %s are these already" "Los paquetes en %s ya son estos"
message packages_failed "the packages could not be installed; what pip said is above" \
  "no se pudieron instalar los paquetes; arriba está lo que dijo pip"
message no_wheel "no dlms_connector wheel in %s; make one there: ./setup_gateway.sh wheelhouse %s" \
  "no hay paquete dlms_connector en %s; cree uno: ./setup_gateway.sh wheelhouse %s"
message wheelhouse_done "Offline installs: ./setup_gateway.sh install --wheelhouse %s (Python %s, this processor)" \
  "Instalación sin red: ./setup_gateway.sh install --wheelhouse %s (Python %s, este procesador)"
message rolled_back "A step failed; everything is as it was before." "Un paso falló; todo quedó como estaba antes."
message interrupted "A former run was interrupted; taking back what it had begun." \
  "Una ejecución anterior fue interrumpida; se deshace lo que había empezado."
message loader_failed "the gateway's loader does not find the connector" \
  "el cargador del gateway no encuentra el conector"
message service_failed "the service does not stay up; journalctl -u tb-gateway -n 50 tells why" \
  "el servicio no se mantiene activo; journalctl -u tb-gateway -n 50 dice por qué"
message all_made "Made by this script (recorded in %s):" "Creado por este programa (anotado en %s):"
message not_installed "nothing was installed by this script here" "aquí no hay nada instalado por este programa"
message busy "another run of this script is at work (%s)" "otra ejecución de este programa está en curso (%s)"
message add_entry "Add this to \"connectors\" in the gateway's tb_gateway.json (or add a custom connector in ThingsBoard), then restart the gateway:" \
  "Añada esto a \"connectors\" en el tb_gateway.json del gateway (o un conector custom en ThingsBoard) y reinicie el gateway:"
message restart_gateway "Restart the gateway to load the new code." "Reinicie el gateway para cargar el código nuevo."
message next_steps "Next: add meters to %s and run ./setup_gateway.sh check" \
  "Siguiente: añada medidores en %s y ejecute ./setup_gateway.sh check"
message no_systemd "systemd does not run here; the service's own command line: %s" \
  "systemd no se ejecuta aquí; la línea de órdenes del servicio: %s"
message other_service "this install is run by its own gateway: restart that (%s)" \
  "esta instalación la ejecuta su propio gateway: reinicie ese (%s)"
message uninstalled "Uninstalled." "Desinstalado."
message kept_data "Kept: configuration, token, user and data. 'uninstall --purge' removes them too." \
  "Conservado: configuración, token, usuario y datos. 'uninstall --purge' los borra también."
message no_packages "the connector is not installed; run ./setup_gateway.sh install first" \
  "el conector no está instalado; ejecute primero ./setup_gateway.sh install"

message check_ok "ok    %s" "bien  %s"
message check_bad "WRONG %s" "MAL   %s"
message check_note "note  %s" "nota  %s"
message check_todo "      -> %s" "      -> %s"
message c_loader "the gateway's loader finds the connector" "el cargador del gateway encuentra el conector"
message c_loader_do "read the lines above; './setup_gateway.sh upgrade' puts the packages back" \
  "lea las líneas de arriba; './setup_gateway.sh upgrade' repone los paquetes"
message c_volume "the extension and its packages are in the volume (made for Python %s)" \
  "la extensión y sus paquetes están en el volumen (hechos para Python %s)"
message c_volume_do "in the container, python3 --version must say the same; else install with --container-python" \
  "en el contenedor, python3 --version debe decir lo mismo; si no, instale con --container-python"
message c_config "%s: valid, and its secrets can be read" "%s: válido, y sus secretos se pueden leer"
message c_config_do "correct what is told above; docs/configuration.md has every setting" \
  "corrija lo indicado arriba; docs/configuration.md tiene cada ajuste"
message c_no_config "no configuration file in %s" "no hay archivo de configuración en %s"
message c_entry "tb_gateway.json has the connector" "tb_gateway.json tiene el conector"
message c_entry_do "add to \"connectors\": %s" "añada a \"connectors\": %s"
message c_modes "secrets are readable by their owner alone (%s)" "los secretos solo los lee su dueño (%s)"
message c_modes_do "chmod 600 %s" "chmod 600 %s"
message c_server "ThingsBoard answers and takes the token" "ThingsBoard responde y acepta el token"
message c_server_do "check host, port, token and CA in tb_gateway.json and tb-gateway.env, and the firewall" \
  "revise servidor, puerto, token y CA en tb_gateway.json y tb-gateway.env, y el cortafuegos"
message c_clock "the clock is synchronised" "el reloj está sincronizado"
message c_clock_do "switch on NTP: timedatectl set-ntp true (readings carry this clock's time)" \
  "active NTP: timedatectl set-ntp true (las lecturas llevan la hora de este reloj)"
message c_clock_unknown "the clock says %s; nothing here tells whether it is synchronised" \
  "el reloj dice %s; nada aquí indica si está sincronizado"
message c_service "the service %s is active" "el servicio %s está activo"
message c_service_do "./setup_gateway.sh start; ./setup_gateway.sh logs" \
  "./setup_gateway.sh start; ./setup_gateway.sh logs"
message c_no_service "systemd does not run here: whether the gateway is up is not checked" \
  "systemd no se ejecuta aquí: no se comprueba si el gateway está activo"
message c_errors "no errors in the log of the last hour" "sin errores en el registro de la última hora"
message c_errors_do "./setup_gateway.sh logs shows them all" "./setup_gateway.sh logs los muestra todos"
message c_result_ok "Everything is in order." "Todo está en orden."
message c_result_bad "%s of the checks failed." "%s comprobaciones fallaron."
message help "Usage: ./setup_gateway.sh COMMAND [OPTIONS]

  demo [--once] [--host HOST --token-file FILE]
               three simulated meters through the real gateway, shown live; or into your ThingsBoard
  test         set up everything and run the test suite

  install      set up a gateway with the connector, or drop the connector into an existing gateway
  check        loader, configuration, secrets, server, clock, service, log: what is wrong and what to do
  upgrade      the same as install, for the version in this folder
  uninstall    take back what install made; --purge also configuration, token, user and data
  status | start | stop | restart | logs
  migrate ...  from the old bridge: dlms-connector migrate ...
  wheelhouse DIR   every package in a folder, for installs without a network
  help         this text

Options of install and upgrade
  --host HOST --port PORT    the ThingsBoard server (port 1883; 8883 with --ca)
  --token-file FILE          access token of the gateway device; asked for when not given
  --ca FILE                  certificate authority of the server: TLS
  --wheelhouse DIR           install from this folder, without a network
  --gateway-venv DIR         the gateway is in this virtual environment (pip install)
  --volume DIR               the gateway is a container: its volume with config, extensions, logs
  --container-python 3.11    the container's Python
  --user NAME                user of the service (tb-gateway; made when missing)
  --root DIR                 everything below this folder, for images and tests (also DESTDIR)
  --dry-run                  tell what would be done
  --yes                      ask nothing" "Uso: ./setup_gateway.sh ORDEN [OPCIONES]

  demo [--once] [--host SERVIDOR --token-file ARCHIVO]
               tres medidores simulados a través del gateway real, en vivo; o hacia su ThingsBoard
  test         prepara todo y ejecuta las pruebas

  install      instala un gateway con el conector, o pone el conector en un gateway existente
  check        cargador, configuración, secretos, servidor, reloj, servicio, registro: qué falla y qué hacer
  upgrade      lo mismo que install, para la versión de esta carpeta
  uninstall    deshace lo que hizo install; con --purge también configuración, token, usuario y datos
  status | start | stop | restart | logs
  migrate ...  desde el puente anterior: dlms-connector migrate ...
  wheelhouse DIR   todos los paquetes en una carpeta, para instalar sin red
  help         este texto

Opciones de install y upgrade
  --host SERVIDOR --port PUERTO   el servidor ThingsBoard (puerto 1883; 8883 con --ca)
  --token-file ARCHIVO       token de acceso del dispositivo gateway; se pregunta si no se da
  --ca ARCHIVO               autoridad certificadora del servidor: TLS
  --wheelhouse DIR           instala desde esta carpeta, sin red
  --gateway-venv DIR         el gateway está en este entorno virtual (pip install)
  --volume DIR               el gateway es un contenedor: su volumen con config, extensions, logs
  --container-python 3.11    el Python del contenedor
  --user NOMBRE              usuario del servicio (tb-gateway; se crea si falta)
  --root DIR                 todo bajo esta carpeta, para imágenes y pruebas (también DESTDIR)
  --dry-run                  dice qué haría
  --yes                      no pregunta nada"
