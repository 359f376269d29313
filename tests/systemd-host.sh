#!/usr/bin/env bash
# systemd-host.sh - a throw-away machine with a real systemd as PID 1, for tests
# on a host whose own PID 1 is something else.  Needs root, cgroup v2 mounted
# somewhere, and (for `prepare` only) mmdebstrap or debootstrap.
#
#   systemd-host.sh prepare              build the cached root filesystem (once)
#   systemd-host.sh boot                 start systemd on a fresh overlay of it
#   systemd-host.sh exec [-u USER] [-e K=V]... -- CMD...
#                                        run CMD inside; stdin, stdout, exit status pass through
#   systemd-host.sh offline -- CMD...    run CMD in the filesystem without booting it
#                                        (systemd-analyze verify, dpkg -i, ...)
#   systemd-host.sh status               "running LEADER-PID" or "stopped" (exit 3)
#   systemd-host.sh console              what PID 1 wrote to its console
#   systemd-host.sh poweroff             clean shutdown; files stay, so `boot` again = a reboot
#   systemd-host.sh destroy [--cache]    stop by force, drop the overlay (and the cached rootfs)
#
# Environment:
#   SDHOST_CACHE     cached root filesystems   [${XDG_CACHE_HOME:-$HOME/.cache}/moltbot-tests/systemd-host]
#   SDHOST_STATE     overlays of the instances [${TMPDIR:-/tmp}/systemd-host]
#   SDHOST_NAME      instance name; several can run side by side [main]
#   SDHOST_SUITE     bookworm (systemd 252), trixie (systemd 257)  [bookworm]
#   SDHOST_PACKAGES  further packages, separated by spaces; they are part of the cache key
#   SDHOST_MIRROR    where Debian packages come from  [the first archive that this host's apt uses]
#   SDHOST_TARBALL   read the rootfs from this tar(.zst) if it is there, else write it there
#   SDHOST_BACKEND   unshare (util-linux only) or nspawn (needs systemd-container)  [unshare]
#   SDHOST_CGROUP    unified: cgroup v2 as on Debian;  hybrid: v1 controllers, writable, so that
#                    MemoryMax=/TasksMax=/CPUQuota= bite where v1 holds them (unshare only) [unified]
#   SDHOST_NET       private: own loopback only;  host: share the network  [private]
#   SDHOST_BIND      "SRC:DST[:ro] ..." bind mounts (no spaces or colons in the paths)
#   SDHOST_TIMEOUT   seconds to wait for boot and for shutdown [60]
set -euo pipefail

SDHOST_CACHE=${SDHOST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/moltbot-tests/systemd-host}
SDHOST_STATE=${SDHOST_STATE:-${TMPDIR:-/tmp}/systemd-host}
SDHOST_NAME=${SDHOST_NAME:-main}
SDHOST_SUITE=${SDHOST_SUITE:-bookworm}
SDHOST_PACKAGES=${SDHOST_PACKAGES:-}
SDHOST_MIRROR=${SDHOST_MIRROR:-}
SDHOST_TARBALL=${SDHOST_TARBALL:-}
SDHOST_BACKEND=${SDHOST_BACKEND:-unshare}
SDHOST_CGROUP=${SDHOST_CGROUP:-unified}
SDHOST_NET=${SDHOST_NET:-private}
SDHOST_BIND=${SDHOST_BIND:-}
SDHOST_TIMEOUT=${SDHOST_TIMEOUT:-60}

RECIPE=1 # raise it when build_rootfs changes, so that old caches are not reused
BASE_PACKAGES="systemd systemd-sysv dbus dbus-user-session libpam-systemd libnss-systemd procps iproute2"
# Units with nothing to do in here: they cost time, or reach for the host's kernel.
MASKED="console-getty.service getty@.service serial-getty@.service systemd-modules-load.service
 systemd-sysctl.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount
 proc-sys-fs-binfmt_misc.automount systemd-binfmt.service apt-daily.timer apt-daily-upgrade.timer
 dpkg-db-backup.timer e2scrub_all.timer fstrim.timer"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

note() { printf 'systemd-host[%s]: %s\n' "$SDHOST_NAME" "$*" >&2; }
die() { note "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

[[ $SDHOST_NAME =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || die "SDHOST_NAME: use a-z, 0-9 and '-'"
case $SDHOST_BACKEND in unshare | nspawn) ;; *) die "SDHOST_BACKEND: unshare or nspawn" ;; esac
case $SDHOST_CGROUP in unified | hybrid) ;; *) die "SDHOST_CGROUP: unified or hybrid" ;; esac
case $SDHOST_NET in private | host) ;; *) die "SDHOST_NET: private or host" ;; esac

cache_key() {
  local sum
  sum=$(printf '%s\n' "$RECIPE" "$SDHOST_SUITE" "$BASE_PACKAGES" "$SDHOST_PACKAGES" "$MASKED" | sha256sum)
  printf '%s-%s' "$SDHOST_SUITE" "${sum:0:12}"
}
ROOTFS=$SDHOST_CACHE/$(cache_key)
INST=$SDHOST_STATE/$SDHOST_NAME
GROUP=sdhost-$SDHOST_NAME # name of our cgroup in every hierarchy

# ---------------------------------------------------------------- cgroups

# Where a hierarchy is mounted on the host: "cgroup2", or a v1 controller's name.
hierarchy() {
  awk -v want="$1" '{
      for (i = 7; i <= NF; i++) if ($i == "-") break
      type = $(i + 1); n = split($(i + 3), opt, ",")
      if (want == "cgroup2") { if (type == "cgroup2") { print $5; exit } }
      else if (type == "cgroup") for (k = 1; k <= n; k++) if (opt[k] == want) { print $5; exit }
    }' /proc/self/mountinfo
}

# Our own place in a v1 hierarchy, so that limits set on us still hold inside.
own_v1_path() { awk -F: -v want="$1" '{ n = split($2, c, ","); for (k = 1; k <= n; k++) if (c[k] == want) print $3 }' /proc/self/cgroup; }

CG2=$(hierarchy cgroup2)

# The folders that make up our cgroup, one a line, the v2 one first.
wanted_groups() {
  printf '%s\n' "$CG2/$GROUP"
  local c m
  m=$(hierarchy name=systemd)
  [[ -z $m ]] || printf '%s\n' "$m/$GROUP"
  if [[ $SDHOST_CGROUP == hybrid ]]; then
    for c in cpu cpuacct memory pids blkio devices freezer; do
      m=$(hierarchy "$c")
      [[ -z $m ]] || { m=$m$(own_v1_path "$c"); printf '%s\n' "${m%/}/$GROUP"; }
    done
  fi
}

populated() { [[ -n $CG2 && -e $CG2/$GROUP/cgroup.events ]] && grep -qx 'populated 1' "$CG2/$GROUP/cgroup.events"; }

drop_groups() {
  local g
  [[ ! -e $INST/groups ]] || while read -r g; do
    [[ -d $g ]] || continue
    for _ in 1 2 3 4 5 6 7 8 9 10; do # a dead task may still be leaving
      find "$g" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [[ -d $g ]] || break
      sleep 0.1
    done
    [[ ! -d $g ]] || note "left behind: $g"
  done <"$INST/groups"
}

# PID (as seen here) of the systemd that is PID 1 inside.
leader() {
  local f=$CG2/$GROUP/payload/init.scope/cgroup.procs p
  [[ -r $f ]] || return 1
  while read -r p; do
    if [[ $(awk '/^NSpid:/ && NF > 2 { print $NF }' "/proc/$p/status" 2>/dev/null) == 1 ]]; then
      printf '%s\n' "$p"
      return 0
    fi
  done <"$f"
  return 1
}

# ---------------------------------------------------------------- prepare

build_rootfs() { # $1: an empty folder
  local d=$1 list u
  [[ -n $SDHOST_MIRROR ]] || SDHOST_MIRROR=$(apt-get indextargets --format '$(SITE)' | awk '!/security/ && !n++')
  [[ -n $SDHOST_MIRROR ]] || die "no archive found in apt's sources: set SDHOST_MIRROR"
  # shellcheck disable=SC2086
  list=$(printf '%s,' $BASE_PACKAGES $SDHOST_PACKAGES)
  list=${list%,}
  if have mmdebstrap; then
    mmdebstrap --mode=root --variant=minbase --include="$list" \
      --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
      --dpkgopt='path-exclude=/usr/share/doc/*' \
      "$SDHOST_SUITE" "$d" "deb $SDHOST_MIRROR $SDHOST_SUITE main"
  elif have debootstrap; then
    debootstrap --variant=minbase --include="$list" "$SDHOST_SUITE" "$d" "$SDHOST_MIRROR"
    rm -rf "$d"/var/cache/apt/archives/*.deb "$d"/var/lib/apt/lists/*_*
  else
    die "prepare needs mmdebstrap or debootstrap (apt-get install mmdebstrap)"
  fi
  : >"$d/etc/machine-id" # empty: a new one at each first boot, without first-boot presets
  printf 'sdhost\n' >"$d/etc/hostname"
  for u in $MASKED; do ln -sfn /dev/null "$d/etc/systemd/system/$u"; done
}

cmd_prepare() {
  mkdir -p "$SDHOST_CACHE"
  exec 9>"$SDHOST_CACHE/.lock"
  flock 9
  if [[ -e $ROOTFS/.complete ]]; then
    note "cached: $ROOTFS"
    return
  fi
  rm -rf "$ROOTFS"
  local tmp=$ROOTFS.tmp
  rm -rf "$tmp"
  mkdir -p "$tmp"
  chmod 755 "$tmp"
  if [[ -n $SDHOST_TARBALL && -e $SDHOST_TARBALL ]]; then
    tar --numeric-owner --xattrs -C "$tmp" -xf "$SDHOST_TARBALL"
    [[ $(cat "$tmp/.sdhost-key" 2>/dev/null) == "$(cache_key)" ]] || die "$SDHOST_TARBALL holds another rootfs than the one asked for"
  else
    build_rootfs "$tmp" >&2 </dev/null
    cache_key >"$tmp/.sdhost-key"
    if [[ -n $SDHOST_TARBALL ]]; then
      tar --numeric-owner --xattrs --auto-compress -C "$tmp" -cf "$SDHOST_TARBALL.part.${SDHOST_TARBALL##*.}" .
      mv "$SDHOST_TARBALL.part.${SDHOST_TARBALL##*.}" "$SDHOST_TARBALL"
    fi
  fi
  : >"$tmp/.complete"
  mv "$tmp" "$ROOTFS"
  note "built: $ROOTFS ($(du -sh "$ROOTFS" | cut -f1))"
}

need_rootfs() { [[ -e $ROOTFS/.complete ]] || die "no rootfs for this suite and these packages yet: run 'prepare' first"; }

# ---------------------------------------------------------------- inside the new mount namespace

# Everything from here to enter_* runs after `unshare --mount`: no mount of ours reaches the host.
mount_overlay() {
  mount --make-rprivate /
  mkdir -p "$INST/upper" "$INST/work" "$INST/root"
  mount -t overlay overlay "$INST/root" -o "lowerdir=$ROOTFS,upperdir=$INST/upper,workdir=$INST/work"
}

bind_all() { # $1: root
  local spec src dst opt rest
  for spec in $SDHOST_BIND; do
    src=${spec%%:*}
    rest=${spec#*:}
    dst=${rest%%:*}
    opt=
    [[ $rest != *:* ]] || opt=${rest#*:}
    [[ -e $src && $dst == /* ]] || die "SDHOST_BIND: cannot use '$spec'"
    if [[ -d $src ]]; then mkdir -p "$1$dst"; else
      mkdir -p "$1${dst%/*}"
      [[ -e $1$dst ]] || : >"$1$dst"
    fi
    mount --rbind "$src" "$1$dst"
    [[ $opt != ro ]] || mount -o remount,bind,ro "$1$dst"
  done
}

copy_resolv() { # name resolution, only where the network is shared
  [[ $SDHOST_NET == host && -r /etc/resolv.conf ]] || return 0
  rm -f "$1/etc/resolv.conf"
  cat /etc/resolv.conf >"$1/etc/resolv.conf"
}

fill_dev() { # $1: folder that becomes /dev
  local n
  mount -t tmpfs tmpfs "$1" -o mode=755,nosuid
  for n in null zero full random urandom tty; do
    : >"$1/$n"
    mount --bind "/dev/$n" "$1/$n"
  done
  mkdir "$1/pts" "$1/shm"
  mount -t devpts devpts "$1/pts" -o newinstance,ptmxmode=0666,mode=620,gid=5
  mount -t tmpfs tmpfs "$1/shm" -o mode=1777,nosuid,nodev
  ln -s pts/ptmx "$1/ptmx"
  ln -s /proc/self/fd "$1/fd"
  ln -s /proc/self/fd/0 "$1/stdin"
  ln -s /proc/self/fd/1 "$1/stdout"
  ln -s /proc/self/fd/2 "$1/stderr"
}

# PID 1 of the new namespaces.  Same layout as nspawn's: the parent stays in supervisor/, and
# payload/ becomes the root that systemd sees, so that it may hand controllers down from there.
enter_unshare() {
  local c g=$CG2/$GROUP controllers=()
  mkdir -p "$g/payload"
  read -ra controllers <"$g/cgroup.controllers" || true
  for c in ${controllers[@]+"${controllers[@]}"}; do echo "+$c" >"$g/cgroup.subtree_control" || true; done
  echo 0 >"$g/payload/cgroup.procs"
  exec unshare --cgroup "$BASH" "$SELF" __enter_machine
}

# Build the file system view, then become systemd.
enter_machine() {
  local r=$INST/root c
  mount_overlay
  mount -t proc proc "$r/proc" -o nosuid,noexec,nodev
  mount --bind "$r/proc/sys" "$r/proc/sys" # the host's sysctls are not ours to set
  mount -o remount,bind,ro "$r/proc/sys"
  cat /proc/sys/kernel/random/uuid >"$INST/boot_id" # or every boot would look like the host's
  mount --bind "$INST/boot_id" "$r/proc/sys/kernel/random/boot_id"
  mount -o remount,bind,ro "$r/proc/sys/kernel/random/boot_id"
  mount -t sysfs sysfs "$r/sys" -o ro,nosuid,noexec,nodev
  if [[ $SDHOST_CGROUP == unified ]]; then
    mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup" -o nosuid,noexec,nodev
  else
    mount -t tmpfs tmpfs "$r/sys/fs/cgroup" -o mode=755,nosuid,noexec,nodev
    for c in cpu cpuacct memory pids blkio devices freezer; do
      grep -qE "^[0-9]+:([a-z_,=]*,)?$c(,[a-z_,=]*)?:" /proc/self/cgroup || continue
      mkdir "$r/sys/fs/cgroup/$c"
      mount -t cgroup cgroup "$r/sys/fs/cgroup/$c" -o "nosuid,noexec,nodev,$c"
    done
    mkdir "$r/sys/fs/cgroup/systemd" "$r/sys/fs/cgroup/unified"
    mount -t cgroup cgroup "$r/sys/fs/cgroup/systemd" -o nosuid,noexec,nodev,none,name=systemd
    mount -t cgroup2 cgroup2 "$r/sys/fs/cgroup/unified" -o nosuid,noexec,nodev
  fi
  fill_dev "$r/dev"
  mount -t tmpfs tmpfs "$r/run" -o mode=755,nosuid,nodev
  mount -t tmpfs tmpfs "$r/tmp" -o mode=1777,nosuid,nodev
  copy_resolv "$r"
  bind_all "$r"
  mkdir -p "$r/run/sdhost.old"
  cd "$r"
  pivot_root . run/sdhost.old
  cd /
  umount -l /run/sdhost.old
  rmdir /run/sdhost.old
  mount --make-rshared / # LoadCredential= for a User= needs mount propagation
  # The last word lets systemd 256/257 accept v1 controllers; older ones ignore it.
  exec env -i container=sdhost PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1
}

enter_nspawn() {
  local args=(--quiet --register=no --keep-unit --boot --console=pipe --machine="$SDHOST_NAME"
    --resolv-conf=off --kill-signal=SIGRTMIN+4
    # without these, IPAddressDeny= and DevicePolicy= are accepted and do nothing
    "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON" --system-call-filter=bpf)
  [[ $SDHOST_CGROUP == unified ]] || die "SDHOST_CGROUP=hybrid needs SDHOST_BACKEND=unshare (nspawn mounts v1 controllers read-only)"
  [[ $SDHOST_NET == host ]] || args+=(--private-network)
  mount_overlay
  mount -t tmpfs tmpfs /run/systemd/nspawn 2>/dev/null || { mkdir -p /run/systemd/nspawn && mount -t tmpfs tmpfs /run/systemd/nspawn; }
  copy_resolv "$INST/root"
  bind_all "$INST/root"
  exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn -D "$INST/root" "${args[@]}"
}

enter_offline() {
  local r=$INST/root
  mount_overlay
  mount -t proc proc "$r/proc"
  fill_dev "$r/dev"
  mount -t tmpfs tmpfs "$r/run" -o mode=755
  mount -t tmpfs tmpfs "$r/tmp" -o mode=1777
  copy_resolv "$r"
  bind_all "$r"
  mkdir -p "$r/run/user/0" # systemd-analyze --user asks for a runtime folder
  exec chroot "$r" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LANG=C.UTF-8 XDG_RUNTIME_DIR=/run/user/0 SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive "$@"
}

# ---------------------------------------------------------------- boot and stop

save_settings() {
  local v
  for v in SDHOST_CACHE SDHOST_STATE SDHOST_NAME SDHOST_SUITE SDHOST_PACKAGES SDHOST_BACKEND SDHOST_CGROUP SDHOST_NET SDHOST_BIND; do
    printf '%s=%q\n' "$v" "${!v}"
  done >"$INST/settings"
}

cmd_boot() {
  need_rootfs
  [[ -n $CG2 ]] || die "no cgroup v2 mount on this host"
  populated && die "already running"
  [[ $SDHOST_BACKEND == unshare ]] || have systemd-nspawn || die "no systemd-nspawn: apt-get install systemd-container, or SDHOST_BACKEND=unshare"
  [[ $SDHOST_BACKEND == unshare || $SDHOST_CGROUP == unified ]] || die "SDHOST_CGROUP=hybrid needs SDHOST_BACKEND=unshare"
  local t0 now p='' state='' g fd flags
  t0=$(date +%s%N)
  mkdir -p "$INST"
  if [[ -e $INST/rootfs && $(cat "$INST/rootfs") != "$ROOTFS" ]]; then
    die "this instance's overlay belongs to another rootfs: destroy it first"
  fi
  printf '%s\n' "$ROOTFS" >"$INST/rootfs"
  save_settings
  wanted_groups >"$INST/groups"
  while read -r g; do mkdir -p "$g"; done <"$INST/groups"
  if [[ $SDHOST_BACKEND == unshare ]]; then
    flags=(--mount --pid --fork --uts --ipc)
    mkdir -p "$CG2/$GROUP/supervisor"
    [[ $SDHOST_NET == host ]] || flags+=(--net)
  else
    flags=(--mount) # nspawn makes the other namespaces itself
  fi
  (
    set +e
    while read -r g; do echo "$BASHPID" >"$g/cgroup.procs"; done <"$INST/groups"
    [[ $SDHOST_BACKEND == nspawn ]] || echo "$BASHPID" >"$CG2/$GROUP/supervisor/cgroup.procs"
    for fd in "/proc/$BASHPID/fd/"*; do # a test harness waits for whoever holds its pipes
      fd=${fd##*/}
      ((fd < 3)) || eval "exec $fd>&-"
    done 2>/dev/null
    exec setsid unshare "${flags[@]}" "$BASH" "$SELF" "__enter_$SDHOST_BACKEND"
  ) </dev/null >"$INST/console" 2>&1 &
  disown
  while :; do
    if p=$(leader); then
      state=$(inside "$p" systemctl is-system-running 2>/dev/null) || true
      case $state in running | degraded) break ;; esac
    elif ! populated && (($(date +%s%N) - t0 > 1000000000)); then
      tail -n 20 "$INST/console" >&2
      cleanup_stopped
      die "PID 1 went away during boot"
    fi
    if (($(date +%s%N) - t0 > SDHOST_TIMEOUT * 1000000000)); then
      tail -n 20 "$INST/console" >&2
      stop_hard
      die "not up within ${SDHOST_TIMEOUT}s (last state: ${state:-none})"
    fi
    sleep 0.05
  done
  now=$(date +%s%N)
  note "$state after $(((now - t0) / 1000000)) ms, leader $p, $SDHOST_BACKEND, $SDHOST_CGROUP, $(inside "$p" systemctl --version | sed -n '1s/ (.*//p')"
  [[ $state == running ]] || inside "$p" systemctl --failed --no-legend --no-pager >&2 || true
}

# Run a command in the leader's namespaces, and in its cgroup: systemd 257's logind and
# user manager refuse callers whose cgroup lies outside the machine.
inside() {
  local p=$1
  shift
  (
    join_leader "$p"
    exec nsenter -t "$p" --mount --uts --ipc --net --pid --cgroup --root --wd -- \
      /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      HOME=/root LANG=C.UTF-8 TERM=dumb SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive "$@"
  )
}

join_leader() {
  local id names path m
  while IFS=: read -r id names path; do
    if [[ $id == 0 ]]; then
      m=$CG2
    else
      m=$(hierarchy "${names%%,*}")
      [[ $path == */"$GROUP"* ]] || continue
    fi
    [[ -z $m ]] || echo "$BASHPID" >"$m$path/cgroup.procs" || true
  done <"/proc/$1/cgroup"
}

cmd_exec() {
  local p user='' envs=() uid gid home
  while (($#)); do
    case $1 in
      -u) user=$2; shift 2 ;;
      -e) envs+=("$2"); shift 2 ;;
      --) shift; break ;;
      *) break ;;
    esac
  done
  (($#)) || die "exec: no command"
  p=$(leader) || die "not running"
  if [[ -z $user ]]; then
    inside "$p" ${envs[@]+"${envs[@]}"} "$@"
  else
    IFS=: read -r _ _ uid gid _ home _ < <(inside "$p" getent passwd "$user") || die "exec: no user '$user' inside"
    # what a login would set, so that `systemctl --user` finds the user's manager
    inside "$p" HOME="$home" USER="$user" LOGNAME="$user" XDG_RUNTIME_DIR="/run/user/$uid" \
      DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$uid/bus" ${envs[@]+"${envs[@]}"} \
      setpriv --reuid="$uid" --regid="$gid" --init-groups -- "$@"
  fi
}

cmd_offline() {
  [[ ${1:-} != -- ]] || shift
  (($#)) || die "offline: no command"
  need_rootfs
  populated && die "running: use exec"
  mkdir -p "$INST"
  printf '%s\n' "$ROOTFS" >"$INST/rootfs"
  unshare --mount --pid --fork --kill-child "$BASH" "$SELF" __enter_offline "$@"
}

# overlayfs holds a lock on upper and work until the last mount namespace is gone
cleanup_stopped() {
  drop_groups
  rm -f "$INST/groups"
}

stop_hard() {
  local i
  if populated; then
    echo 1 >"$CG2/$GROUP/cgroup.kill"
    for ((i = 0; i < 100; i++)); do
      populated || break
      sleep 0.1
    done
  fi
  cleanup_stopped
}

cmd_poweroff() {
  local p t0
  if ! populated; then
    cleanup_stopped
    note "not running"
    return
  fi
  t0=$(date +%s%N)
  if p=$(leader); then kill -s RTMIN+4 "$p"; fi # systemd: start poweroff.target
  while populated; do
    if (($(date +%s%N) - t0 > SDHOST_TIMEOUT * 1000000000)); then
      note "still up after ${SDHOST_TIMEOUT}s: killing it"
      break
    fi
    sleep 0.05
  done
  stop_hard
  note "off after $((($(date +%s%N) - t0) / 1000000)) ms"
}

cmd_destroy() {
  stop_hard
  rm -rf "$INST"
  rmdir "$SDHOST_STATE" 2>/dev/null || true
  if [[ ${1:-} == --cache ]]; then
    rm -rf "$ROOTFS" "$ROOTFS.tmp"
    [[ -n $(find "$SDHOST_CACHE" -mindepth 1 -maxdepth 1 ! -name .lock 2>/dev/null) ]] || rm -rf "$SDHOST_CACHE"
  fi
}

# ---------------------------------------------------------------- main

[[ $(id -u) == 0 ]] || die "needs root"
SELF=$(readlink -f "${BASH_SOURCE[0]}")
cmd=${1:-help}
(($# == 0)) || shift
# A running instance keeps the settings it was booted with.
if [[ $cmd != boot && $cmd != prepare && -r $INST/settings && -e $INST/groups ]]; then
  # shellcheck disable=SC1091
  source "$INST/settings"
  ROOTFS=$SDHOST_CACHE/$(cache_key)
fi
export SDHOST_CACHE SDHOST_STATE SDHOST_NAME SDHOST_SUITE SDHOST_PACKAGES SDHOST_MIRROR SDHOST_TARBALL
export SDHOST_BACKEND SDHOST_CGROUP SDHOST_NET SDHOST_BIND SDHOST_TIMEOUT
case $cmd in
  prepare) cmd_prepare ;;
  boot) cmd_boot ;;
  exec) cmd_exec "$@" ;;
  offline) cmd_offline "$@" ;;
  status) if populated && p=$(leader); then echo "running $p"; else echo stopped; exit 3; fi ;;
  console) cat "$INST/console" ;;
  poweroff) cmd_poweroff ;;
  destroy) cmd_destroy "$@" ;;
  __enter_unshare) enter_unshare ;;
  __enter_machine) enter_machine ;;
  __enter_nspawn) enter_nspawn ;;
  __enter_offline) enter_offline "$@" ;;
  *) sed -n '2,/^set -euo/{/^set /d;s/^# \{0,1\}//p}' "$SELF"; [[ $cmd == help ]] || exit 2 ;;
esac
