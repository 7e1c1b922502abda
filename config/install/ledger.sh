# shellcheck shell=bash
# What was done is written down before it is done: a failed run is taken back, a finished one can be uninstalled.
#
# A line is KIND <tab> PATH <tab> MORE. Kinds of things made: file, link, dir, tree (ours to the last file), user, and,
# kept by an uninstall without --purge, config (a file the operator owns from now on) and data (a folder whose content the
# service makes). Kinds that a run alone needs: restore (MORE is the former file or folder), relink (MORE is the former
# target), temp (goes in any case), former (goes when the run succeeds), service (MORE: was it active?), started.

LEDGER='' # folder of the manifest and the journal, see choose_layout in layout.sh
BEGUN=''

manifest() { printf '%s/manifest\n' "$LEDGER"; }
journal() { printf '%s/journal\n' "$LEDGER"; }
is_installed() { [ -n "$(manifest_value mode)" ]; }

# manifest_value KEY: a fact of the install (mode, python, ...), which stands as `fact KEY VALUE`.
manifest_value() {
  awk -F '\t' -v key="$1" '$1 == "fact" && $2 == key { value = $3 } END { print value }' "$(manifest)" 2>/dev/null || true
}

record() { printf '%s\t%s\t%s\n' "$1" "$2" "${3-}" >>"$(journal)"; }

# begin: open the journal; whatever a killed run left is taken back first.
begin() {
  [ -z "$DRY_RUN" ] || return 0
  local parents=() folder=$LEDGER
  while [ ! -d "$folder" ]; do
    parents+=("$folder")
    folder=$(dirname "$folder")
  done
  (umask 022 && mkdir -p "$(dirname "$LEDGER")")
  [ -d "$LEDGER" ] || mkdir -m 0700 "$LEDGER"
  exec 9>"$LEDGER/lock"
  flock -n 9 || fail busy "$LEDGER"
  if [ -f "$(journal)" ]; then
    say interrupted
    roll_back # it may take the ledger's folder with it
    begin
    return
  fi
  : >"$(journal)"
  BEGUN=1
  trap end EXIT
  trap 'exit 130' INT TERM
  local index
  for ((index = ${#parents[@]} - 1; index >= 0; index--)); do record dir "${parents[index]}"; done
}

# end: runs at every exit; a run that did not commit is taken back.
end() {
  local status=$?
  [ -n "$BEGUN" ] || return "$status"
  BEGUN=
  roll_back
  warn rolled_back
  return "$status"
}

# commit: the journal's things join the manifest, backups go.
commit() {
  [ -z "$DRY_RUN" ] || return 0
  local path leftovers=()
  while IFS= read -r path; do leftovers+=("$path"); done \
    < <(awk -F '\t' '$1 == "temp" || $1 == "former" { print $2 }' "$(journal)")
  {
    [ ! -f "$(manifest)" ] || cat "$(manifest)"
    grep -Pv '^(restore|relink|temp|former|service|started)\t' "$(journal)" || true
  } >"$LEDGER/manifest.all"
  rewrite_manifest "$LEDGER/manifest.all"
  BEGUN=
  rm -f "$(journal)"
  rm -rf "$LEDGER/backup" "$LEDGER/manifest.all" "${leftovers[@]}"
  rewrite_manifest "$(manifest)"
}

rewrite_manifest() { # SOURCE
  still_there <"$1" >"$LEDGER/manifest.new"
  mv "$LEDGER/manifest.new" "$(manifest)"
}

# still_there: drops repeated lines, facts that were replaced, and things that are gone.
still_there() {
  local kind path more
  awk -F '\t' '{ if ($1 == "fact") { fact[$2] = $0 } else if (!seen[$1 FS $2]++) print }
    END { for (key in fact) print fact[key] }' | while IFS=$'\t' read -r kind path more; do
    if is_there "$kind" "$path"; then printf '%s\t%s\t%s\n' "$kind" "$path" "$more"; fi
  done
}

is_there() { # KIND PATH
  case $1 in
    fact) true ;;
    user) [ -n "$(user_field "$2" 3)" ] ;;
    *) [ -e "$2" ] || [ -L "$2" ] ;;
  esac
}

roll_back() {
  take_back_lines "$(journal)" everything quiet
  rm -rf "$(journal)" "$LEDGER/backup"
  [ -f "$(manifest)" ] || remove_ledger
}

remove_ledger() {
  rm -f "$LEDGER/lock" "$(manifest)" "$(journal)"
  rmdir "$LEDGER" 2>/dev/null || return 0
  local folder
  for folder in "${LEDGER_PARENTS[@]}"; do rmdir "$folder" 2>/dev/null || true; done
}

# take_back_lines FILE everything|made [quiet]: undo each line, the last one first.
LEDGER_PARENTS=()
take_back_lines() {
  local kind path more
  LEDGER_PARENTS=()
  while IFS=$'\t' read -r kind path more; do
    case $LEDGER in "$path" | "$path"/*) [ "$kind" = dir ] && LEDGER_PARENTS+=("$path") && continue ;; esac
    take_back "$kind" "$path" "$more" "$2" || true
    [ -n "${3-}" ] || is_there "$kind" "$path" || say removed "$path"
  done < <(tac "$1")
}

take_back() {
  local kind=$1 path=$2 more=$3 extent=$4
  case $kind in
    file)
      rm -f "$path" "$path.new"
      remove_bytecode "$path"
      ;;
    link) rm -f "$path" ;;
    tree | temp) rm -rf "$path" ;;
    dir) rmdir "$path" 2>/dev/null ;;
    config) [ "$extent" != everything ] || rm -f "$path" ;;
    data) if [ "$extent" = everything ]; then rm -rf "$path"; else rmdir "$path" 2>/dev/null; fi ;;
    user) [ "$extent" != everything ] || remove_user "$path" "$more" ;;
    restore) [ ! -e "$more" ] || { rm -rf "$path" && mv "$more" "$path"; } ;;
    relink) point_link "$path" "$more" ;;
    started) systemctl stop "$path" ;;
    service)
      systemctl daemon-reload
      [ "$more" != active ] || systemctl restart "$path"
      ;;
    fact | former) ;;
  esac
}

# remove_bytecode FILE.py: what Python, running as root, wrote for it.
remove_bytecode() {
  local cache
  cache=$(dirname "$1")/__pycache__
  [ -d "$cache" ] || return 0
  rm -f "$cache/$(basename "$1" .py)".*.pyc
  rmdir "$cache" 2>/dev/null
}

# What follows makes things, each written down first; with --dry-run it only tells.

declare -A PLANNED=() # folders that a dry run told already
make_dir() { # PATH MODE [OWNER] [KIND]
  local path=$1 mode=$2 owner=${3-} kind=${4:-dir}
  [ ! -d "$path" ] && [ -z "${PLANNED[$path]-}" ] || return 0
  [ "$path" = / ] || [ -d "$(dirname "$path")" ] || make_dir "$(dirname "$path")" 0755
  if [ -n "$DRY_RUN" ]; then
    say would "$path/"
    PLANNED[$path]=1
    return
  fi
  record "$kind" "$path"
  mkdir -m "$mode" "$path"
  give_to "$path" "$owner"
  say made "$path/"
}

put_file() { # SOURCE PATH MODE [OWNER] [KIND]; KIND config is left alone when it is there
  local source=$1 path=$2 mode=$3 owner=${4-} kind=${5:-file}
  if [ -e "$path" ]; then
    if [ "$kind" = config ] || cmp -s "$source" "$path"; then
      [ "$kind" != config ] || say kept "$path"
      return 0
    fi
    [ "$kind" != file ] || must_be_ours file "$path"
  fi
  if [ -n "$DRY_RUN" ]; then
    if [ -e "$path" ]; then say would_replace "$path"; else say would "$path"; fi
    return
  fi
  local is_new=1
  if [ -e "$path" ]; then
    keep_former "$path"
    is_new=
  else
    record "${kind#replace-}" "$path"
  fi
  rm -f "$path.new"
  install -m "$mode" "$source" "$path.new"
  give_to "$path.new" "$owner"
  mv "$path.new" "$path"
  if [ -n "$is_new" ]; then say made "$path"; else say updated "$path"; fi
}

# must_be_ours KIND PATH: what stands there and is not in the manifest is somebody else's.
must_be_ours() {
  [ ! -e "$2" ] || grep -qsF "$1	$2	" "$(manifest)" || fail not_ours "$2"
}

# keep_former PATH: a copy that a failed run puts back; metadata included.
keep_former() {
  local copy
  mkdir -p "$LEDGER/backup"
  copy=$(mktemp -u "$LEDGER/backup/XXXXXXXX")
  cp -a "$1" "$copy"
  record restore "$1" "$copy"
}

make_link() { # TARGET PATH
  local target=$1 path=$2
  [ "$(readlink "$path" 2>/dev/null)" != "$target" ] || return 0
  if [ -n "$DRY_RUN" ]; then
    say would "$path"
    return
  fi
  if [ -L "$path" ]; then
    record relink "$path" "$(readlink "$path")"
  elif [ -e "$path" ]; then
    fail not_ours "$path"
  else
    record link "$path"
  fi
  point_link "$path" "$target"
  say made "$path"
}

# point_link PATH TARGET: in one step, so that nobody finds no link.
point_link() {
  ln -sfn "$2" "$1.new"
  mv -T "$1.new" "$1"
}

give_to() { # PATH OWNER, a numeric uid:gid, or empty for whoever runs this
  [ -z "$2" ] || [ "$(id -u)" != 0 ] || chown "$2" "$1"
}
