#!/bin/bash
# live.sh RELEASE FOLDER: `contrib/quickstart install` on a Debian 12 (bookworm) or 13 (trixie) whose first process is a systemd, from nothing to
# nothing: install, an answer, reload, reboot, stop, upgrade, rollback, uninstall, purge. By hand, as root: it makes Debian roots in FOLDER (4
# GB; kept for the next run) and boots one with systemd-nspawn, in cgroups and mounts of its own. ESSAIM_ROOT=DIR: a build root to use again.
# SPDX-License-Identifier: AGPL-3.0-or-later
set -euo pipefail

usage() { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
[[ $# == 2 && $EUID == 0 ]] || usage
release=$1
mkdir -p "$2"
folder=$(realpath "$2")
top=$(realpath "$(dirname "$0")/../..")
machine=$folder/$release tools=$folder/tools name=essaim-live-$release
holder=""

said() { printf '%s: %s\n' "$release" "$*"; }
broken() { said "FAILED: $*"; exit 1; }

# --- the machine ------------------------------------------------------------------------------------

make_roots() {
    local root=$top/contrib/quickstart.d/root
    "$root" make "$tools" > "$folder/tools.log" 2>&1
    [[ -e $tools/usr/bin/systemd-nspawn ]] || "$root" install "$tools" systemd-container >> "$folder/tools.log" 2>&1
    "$root" make "$machine" "$release" > "$folder/$release.log" 2>&1
    [[ -e $machine/sbin/init ]] || "$root" install "$machine" systemd-sysv dbus sudo git debootstrap debian-archive-keyring procps >> "$folder/$release.log" 2>&1
    # It shares this machine's network, and so its names.
    rm -f "$machine/etc/resolv.conf"
}

# In a mount namespace of its own: where cgroups are of the old kind, nspawn would refuse them.
# shellcheck disable=SC2016  # expanded inside
readonly BOOT='
set -e
tools=$1 machine=$2 name=$3 bound=$4
mount --bind "$tools" "$tools"
for folder in proc dev; do mount --rbind /$folder "$tools/$folder"; done
mount -t sysfs sysfs "$tools/sys"
mount -t cgroup2 cgroup2 "$tools/sys/fs/cgroup"
mkdir -p "$tools/sys/fs/cgroup/$name"
echo $$ > "$tools/sys/fs/cgroup/$name/cgroup.procs"
mount -t tmpfs tmpfs "$tools/run"
binds=()
for folder in "$machine" $bound; do mkdir -p "$tools$folder"; mount --rbind "$folder" "$tools$folder"; done
for folder in $bound; do binds+=(--bind="$folder"); done
touch "$tools/etc/resolv.conf"
mount --bind /etc/resolv.conf "$tools/etc/resolv.conf"
exec chroot "$tools" systemd-nspawn --machine="$name" --register=no --keep-unit --boot --link-journal=no --capability=all \
    --resolv-conf=copy-host --console=pipe "${binds[@]}" -D "$machine"
'

boot() {
    unshare --mount --propagation private bash -c "$BOOT" - "$tools" "$machine" "$name" "$top ${ESSAIM_ROOT:-}" < /dev/null > "$folder/$release.boot" 2>&1 &
    holder=$!
    local tries
    for tries in $(seq 60); do
        case $(inside systemctl is-system-running 2>/dev/null || true) in running | degraded) return 0 ;; esac
        kill -0 "$holder" 2>/dev/null || broken "systemd did not start: $(tail -n 3 "$folder/$release.boot")"
        sleep 1
    done
    broken "systemd is not up after a minute ($tries)"
}

# inside COMMAND...: in that machine, as its root.
inside() {
    local nspawn init
    nspawn=$holder         # exec'd all the way
    init=$(pgrep -P "$nspawn" | head -n 1)
    [[ -n $init ]] || return 1
    nsenter -t "$init" --all --root --wd env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root \
        ${ESSAIM_ROOT:+"ESSAIM_ROOT=$ESSAIM_ROOT"} "$@"
}

shut_down() {
    inside systemctl "$1" || true
    wait "$holder" || true
    holder=""
}
trap '[[ -z $holder ]] || shut_down poweroff' EXIT

# shellcheck disable=SC2016  # expanded inside
quickstart() { inside bash -c 'cd "$1" && shift && contrib/quickstart "$@" < /dev/null' - "$top" "$@"; }

# --- what must be so --------------------------------------------------------------------------------

is_active() {
    local tries
    for tries in $(seq 30); do inside systemctl --quiet is-active essaimd && return 0; sleep 1; done
    inside journalctl -u essaimd --no-pager | tail -n 20
    broken "the service does not run ($tries s)"
}

answers() {
    local answer tries
    # After a boot the model has to be loaded first.
    for tries in $(seq 60); do
        answer=$(inside bash -c 'echo "What is a ring?" | essaim chat --max-tokens 16') && break
        ((tries < 60)) || broken "no answer"
        sleep 1
    done
    [[ $answer == *[a-z]* ]] || broken "an empty answer"
    said "answers: $answer"
}

# As the unit says: no privileges, not root, a filter; and the engine a second one.
is_confined() {
    # shellcheck disable=SC2016  # expanded inside
    inside bash -c '
        daemon=$(systemctl show -p MainPID --value essaimd) engine=$(pgrep essaim-engine)
        for process in $daemon $engine; do
            grep -q "^CapEff:.*0000000000000000" /proc/$process/status && grep -q "^NoNewPrivs:.*1" /proc/$process/status || exit 1
            [[ $(stat -c %U /proc/$process) == essaim || $(awk "/^Uid:/ { print \$2 }" /proc/$process/status) == $(id -u essaim) ]] || exit 1
        done
        filters() { awk "/^Seccomp_filters/ { print \$2 }" /proc/$1/status; }
        (( $(filters $engine) > $(filters $daemon) ))' || broken "it is less confined than the unit says"
}

make_roots
boot
said "$(inside systemctl --version | head -n 1)"
quickstart install --association Abeilles --name ruche --memory 1G --demo-model
is_active
answers
is_confined
inside systemctl reload essaimd || broken "reload"
is_active
inside setpriv --reuid 65534 --regid 65534 --clear-groups essaim status > /dev/null 2>&1 && broken "a stranger may use the node"
inside setpriv --reuid 65534 --regid 65534 --groups "$(inside getent group essaim | cut -d: -f3)" essaim status > /dev/null || broken "the group may not"
shut_down reboot
boot
is_active
answers
# An answer that runs is finished first.
inside bash -c 'echo "Tell me a story about a bee." | essaim chat --max-tokens 60 > /dev/null & sleep 0.5; systemctl stop essaimd; wait $!' ||
    broken "stopping cut an answer off"
[[ $(inside systemctl show -p Result --value essaimd) == success ]] || broken "it did not end well"
inside systemctl start essaimd
quickstart upgrade
is_active
quickstart upgrade --rollback
is_active
answers
quickstart uninstall
inside test -s /var/lib/essaim/home/keys/node.key || broken "uninstall took the keys"
inside systemctl --quiet is-active essaimd && broken "the service runs on"
quickstart uninstall --purge
for left in /var/lib/essaim /usr/local/bin/essaim /etc/systemd/system/essaimd.service; do
    [[ ! -e $machine$left ]] || broken "$left is left"
done
! inside getent passwd essaim > /dev/null || broken "the user is left"
[[ -z $(inside systemctl --failed --plain --no-legend) ]] || broken "$(inside systemctl --failed --plain --no-legend)"
said "all is well"
