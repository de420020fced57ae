# shellcheck shell=bash
# What a Debian machine needs for rcontain: packages, devices, users and a Python environment.
# Sourced by contrib/quickstart, contrib/test and contrib/asuser; nothing happens until a function is called.

# To run it: newuidmap and newgidmap, FUSE, seccomp; a compiler, because pyfuse3 and pyseccomp come as source.
# shellcheck disable=SC2034
RUN_PACKAGES=(uidmap fuse3 libfuse3-dev libseccomp2 pkg-config gcc libc6-dev python3 python3-venv python3-dev ca-certificates procps)
# For the demonstration: a registry, a client that pushes to it, and the program in the image.
# shellcheck disable=SC2034
DEMO_PACKAGES=(docker-registry skopeo busybox-static)
# For the tests.
# shellcheck disable=SC2034
TEST_PACKAGES=(umoci iproute2 iperf3 strace tmux bind9-dnsutils util-linux shellcheck podman
  tshark traceroute iputils-ping dnsmasq-base slirp4netns nginx-light wrk
  buildah apache2-utils libarchive-tools libcap2-bin attr openssl zstd pigz)

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { warn "$*"; exit 1; }
am_root() { [ "$(id -u)" = 0 ]; }

# missing_packages PACKAGE... : those that are not installed, one a line. Silent on machines without dpkg.
missing_packages() {
  command -v dpkg-query >/dev/null || return 0
  local package
  for package; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || say "$package"
  done
}

# need_packages PACKAGE... : root installs what is missing; anybody else is told what to ask for. Status 1: still missing.
need_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! am_root; then
    warn "these packages are missing; ask an administrator to run: apt-get install ${missing[*]}"
    return 1
  fi
  say "Installing ${#missing[@]} packages: ${missing[*]}"
  local log
  log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: ${missing[*]}"
  fi
  rm -f "$log"
}

# open_devices : root makes /dev/fuse and /dev/net/tun usable for everybody, as distributions ship them.
open_devices() {
  am_root || return 0
  [ -e /dev/fuse ] || mknod /dev/fuse c 10 229 || warn "no /dev/fuse: is the fuse module missing?"
  [ -e /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; } || warn "no /dev/net/tun: is the tun module missing?"
  local node
  for node in /dev/fuse /dev/net/tun; do
    [ ! -e $node ] || chmod 0666 $node
  done
}

# ensure_user NAME : an unprivileged user with a home directory and subordinate ids.
ensure_user() {
  touch /etc/subuid /etc/subgid
  id "$1" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$1"
  local kind first
  for kind in uid gid; do
    if ! grep -q "^$1:" /etc/sub$kind; then
      first=$(awk -F: 'BEGIN { end = 100000 } $2 + $3 > end { end = $2 + $3 } END { print end }' /etc/sub$kind)
      usermod "--add-sub${kind}s" "$first-$((first + 65535))" "$1"
    fi
  done
}

# ensure_plain_user NAME : the same without subordinate ids.
ensure_plain_user() {
  id "$1" >/dev/null 2>&1 ||
    useradd --create-home --shell /bin/bash -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 "$1"
}

# ensure_venv DIRECTORY STAMP REQUIREMENT... : a virtual environment that holds the requirements. Made anew when STAMP,
# any text, differs from the one it was made with, or when the interpreter was upgraded.
ensure_venv() {
  local directory=$1 stamp
  stamp="$2 $(/usr/bin/python3 -VV)"
  shift 2
  [ "$(cat "$directory/stamp" 2>/dev/null)" != "$stamp" ] || return 0
  rm -rf "$directory"
  mkdir -p "$(dirname "$directory")"
  /usr/bin/python3 -m venv "$directory" || die "could not make a virtual environment in $directory (package python3-venv)"
  "$directory/bin/pip" install --quiet --disable-pip-version-check "$@" ||
    die "pip could not install into $directory; its reason is above"
  printf '%s\n' "$stamp" >"$directory/stamp"
}

# copy_checkout FROM TO : the files of a checkout without what tools leave in it. A clone may lie below a directory that
# another user cannot enter.
copy_checkout() {
  mkdir -p "$2"
  tar -C "$1" --exclude=./.git --exclude=./.venv --exclude=__pycache__ --exclude='.*_cache' --exclude=./build --exclude='*.egg-info' \
    --exclude=.hypothesis -cf - . | tar -C "$2" --no-same-owner -xf -
  chmod -R a+rX "$2"
}
