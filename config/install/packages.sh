# shellcheck shell=bash
# The pinned packages: a virtual environment of our own, a vendor folder beside the extension, or a wheelhouse.

WHEELHOUSE=''
PINS=$HERE/config/constraints.txt

# pinned_version PACKAGE
pinned_version() { sed -n "s/^$1==\([^; ]*\).*/\1/p" "$PINS"; }

# fingerprint: of the code in this folder and of the pins; packages with the same one need no work.
fingerprint() {
  (cd "$HERE" && find dlms_connector config/constraints.txt pyproject.toml -type f ! -path '*/__pycache__/*' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
}

find_python() { # [COMMAND...]: the first fit Python; COMMAND runs it as somebody else
  local candidate path
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3.10 python3 \
    /usr/bin/python3 /usr/bin/python3.1[0-3] /usr/local/bin/python3; do
    [ -n "$candidate" ] || continue
    path=$(command -v "$candidate") || continue
    if "$@" "$path" -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      printf '%s\n' "$path"
      return
    fi
  done
  fail need_python
}

# build_wheel FOLDER PYTHON: from a copy, so that building leaves nothing in this folder.
build_wheel() {
  local copy=$1/source
  mkdir -p "$copy"
  cp -r "$HERE/pyproject.toml" "$HERE/README.md" "$HERE/LICENSE" "$HERE/dlms_connector" "$copy"
  "$2" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$1" "$copy" >&2 || fail packages_failed
  rm -rf "$copy"
}

# find_wheel FOLDER PYTHON: the connector's wheel, out of the wheelhouse or built; prints its path.
find_wheel() {
  local wheels
  if [ -n "$WHEELHOUSE" ]; then
    wheels=("$WHEELHOUSE"/dlms_connector-*.whl)
    [ -f "${wheels[-1]}" ] || fail no_wheel "$WHEELHOUSE" "$WHEELHOUSE"
  else
    build_wheel "$1" "$2"
    wheels=("$1"/dlms_connector-*.whl)
  fi
  printf '%s\n' "${wheels[-1]}"
}

# pip_install PYTHON OPTIONS...: pinned, readable for the service, nothing asked, nothing from a network with a wheelhouse.
pip_install() {
  local python=$1 offline=()
  shift
  [ -z "$WHEELHOUSE" ] || offline=(--no-index --find-links "$WHEELHOUSE")
  (umask 022 && "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-warn-script-location \
    --constraint "$PINS" "${offline[@]}" "$@") >&2 || fail packages_failed
}

has_same() { [ "$(cat "$1/.dlms-fingerprint" 2>/dev/null)" = "$(fingerprint)" ]; }

work_folder() {
  [ -z "${WORK-}" ] || return 0
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/dlms-setup.XXXXXXXX")
  record temp "$WORK"
}

# fill_venv: a new environment beside the one in use; the link `venv` is turned when it is complete.
fill_venv() {
  make_dir "$PREFIX" 0755
  if has_same "$GATEWAY_VENV" && as_service "$GATEWAY_PYTHON" -c '' 2>/dev/null; then
    say packages_same "$GATEWAY_VENV"
    return
  fi
  if [ -n "$DRY_RUN" ]; then
    say would_packages "$GATEWAY_VENV"
    return
  fi
  local python folder wheel
  python=$(find_python as_service)
  folder=$PREFIX/venv-$(date +%Y%m%d-%H%M%S)-$$
  say packages
  record tree "$folder"
  (umask 022 && "$python" -m venv "$folder") || fail need_venv
  work_folder
  wheel=$(find_wheel "$WORK" "$folder/bin/python3")
  pip_install "$folder/bin/python3" "$wheel" "thingsboard-gateway==$(pinned_version thingsboard-gateway)"
  fingerprint >"$folder/.dlms-fingerprint"
  chmod 0644 "$folder/.dlms-fingerprint"
  [ ! -L "$GATEWAY_VENV" ] || record former "$PREFIX/$(readlink "$GATEWAY_VENV")"
  make_link "$(basename "$folder")" "$GATEWAY_VENV"
}

# fill_vendor: the connector and what it needs, beside the extension; no line of the gateway's environment changes.
fill_vendor() {
  local vendor=$EXTENSIONS/custom/vendor target=()
  local python=$GATEWAY_PYTHON version
  if [ "$MODE" = volume ]; then
    python=$(find_python env)
    version=$CONTAINER_PYTHON
    if [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != "$version" ]; then
      target=(--only-binary=:all: --python-version "$version" --implementation cp)
      local tag
      for tag in manylinux_2_28 manylinux2014; do target+=(--platform "${tag}_$(uname -m)"); done
    fi
  else
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  fi
  if has_same "$vendor" && [ "$(cat "$vendor/.python-version")" = "$version" ]; then
    say packages_same "$vendor"
    return
  fi
  if [ -n "$DRY_RUN" ]; then
    say would_packages "$vendor"
    return
  fi
  must_be_ours tree "$vendor"
  say packages
  # pip runs in an environment of its own: the gateway's may lack it, and must not change.
  work_folder
  (umask 022 && "$python" -m venv "$WORK/pip") || fail need_venv
  local wheel
  wheel=$(find_wheel "$WORK" "$WORK/pip/bin/python3")
  record temp "$vendor.new"
  pip_install "$WORK/pip/bin/python3" --target "$vendor.new" "${target[@]}" "$wheel"
  rm -rf "$vendor.new/bin"
  fingerprint >"$vendor.new/.dlms-fingerprint"
  printf '%s\n' "$version" >"$vendor.new/.python-version"
  chmod 0644 "$vendor.new/.dlms-fingerprint" "$vendor.new/.python-version"
  if [ -e "$vendor" ]; then
    record former "$vendor.old"
    record restore "$vendor" "$vendor.old"
    mv "$vendor" "$vendor.old"
  else
    record tree "$vendor"
  fi
  mv "$vendor.new" "$vendor"
  say made "$vendor/"
}

command_wheelhouse() {
  local folder=${1:?} python work
  python=$(find_python as_anybody) # the one that an install takes too
  mkdir -p "$folder"
  folder=$(cd "$folder" && pwd)
  work=$(mktemp -d)
  # shellcheck disable=SC2064 # this folder, now
  trap "rm -rf '$work'" EXIT
  say packages
  "$python" -m venv "$work/pip" || fail need_venv
  build_wheel "$work" "$work/pip/bin/python3"
  rm -f "$folder"/dlms_connector-*.whl
  "$work/pip/bin/python3" -m pip wheel --quiet --disable-pip-version-check --constraint "$PINS" --wheel-dir "$folder" \
    "$work"/dlms_connector-*.whl "thingsboard-gateway==$(pinned_version thingsboard-gateway)" >&2 || fail packages_failed
  say wheelhouse_done "$folder" "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
}
