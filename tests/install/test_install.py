#!/usr/bin/env python3
"""contrib/quickstart.d/service on a machine that is a folder: install, again, upgrade, rollback, uninstall, and what it refuses.
The programs are those of this build (make install DESTDIR=); the daemon is then run as the service's user, with the unit's
restrictions as far as they can be had without systemd. Needs root. SPDX-License-Identifier: AGPL-3.0-or-later
"""
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import unittest

TOP = os.environ.get("ESSAIM_TOP", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.getcwd()
SERVICE = os.path.join(TOP, "contrib/quickstart.d/service")
DEBIAN = "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n"


def tree(top):
    """Every path under top with what tells it apart: mode, owner, and bytes or target."""
    found = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            what = os.readlink(path) if stat.S_ISLNK(st.st_mode) else None
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what = f.read()
            found[os.path.relpath(path, top)] = (stat.S_IFMT(st.st_mode), what)
    return found


def unshared():
    """Words before a command that shall have mounts of its own; none where that cannot be. In a chroot, whose / is no mount point, only
    where nothing would be passed on."""
    private, unchanged = ["unshare", "--mount", "--propagation", "private"], ["unshare", "--mount", "--propagation", "unchanged"]
    with open("/proc/self/mountinfo") as f:
        shared = " shared:" in f.read()
    for words in [private] if shared else [private, unchanged]:
        if not subprocess.run([*words, "true"], stderr=subprocess.DEVNULL).returncode:
            return words
    return None


class Machine:
    def __init__(self, release=DEBIAN):
        self.top = tempfile.mkdtemp(prefix="essaim-machine.")
        for folder in ("etc", "usr/local/bin", "var/lib"):
            os.makedirs(os.path.join(self.top, folder))
        self.write("etc/os-release", release)
        self.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self.write("etc/group", "root:x:0:\n")
        self.write("etc/shadow", "root:*:19000:0:99999:7:::\n")
        self.write("etc/gshadow", "root:*::\n")
        self.write("etc/login.defs", "SYS_UID_MAX 999\nSYS_GID_MAX 999\nUID_MAX 60000\nGID_MAX 60000\n")

    def path(self, name):
        return os.path.join(self.top, name.lstrip("/"))

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "w") as f:
            f.write(text)

    def read(self, name):
        with open(self.path(name)) as f:
            return f.read()

    def service(self, *args, ok=True):
        done = subprocess.run([SERVICE, *args], env={**os.environ, "ESSAIM_HOST": self.top}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ok and done.returncode:
            raise AssertionError("service %s: %s" % (" ".join(args), done.stdout))
        return done.returncode, done.stdout

    def ids(self):
        for line in self.read("etc/passwd").splitlines():
            if line.startswith("essaim:"):
                return tuple(int(n) for n in line.split(":")[2:4])

    def remove(self):
        shutil.rmtree(self.top, ignore_errors=True)


class Staged(unittest.TestCase):
    """Two versions of the programs, and a machine."""

    @classmethod
    def setUpClass(cls):
        if os.geteuid():
            return
        cls.folder = tempfile.mkdtemp(prefix="essaim-stage.")
        cls.stages = []
        for version in ("one", "two"):
            stage = os.path.join(cls.folder, version)
            done = subprocess.run(["make", "--no-print-directory", "-C", BUILD, "install", "DESTDIR=" + stage], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, env={k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"})
            if done.returncode:
                raise AssertionError(done.stdout[-2000:])
            with open(os.path.join(stage, "usr/local/share/essaim/version"), "w") as f:
                f.write(version + "\n")
            cls.stages.append(stage)
        os.chmod(cls.folder, 0o755)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(getattr(cls, "folder", ""), ignore_errors=True)

    def setUp(self):
        self.machine = Machine()
        self.addCleanup(self.machine.remove)
        os.chmod(self.machine.top, 0o755)


@unittest.skipUnless(os.geteuid() == 0, "needs root: users, owners, a mount namespace")
class Install(Staged):
    def version(self):
        return self.machine.read("var/lib/essaim/root/usr/local/share/essaim/version").strip()

    def test_make_install_puts_the_unit_its_user_its_folders_and_the_completion(self):
        prefix = os.path.join(self.stages[0], "usr/local")
        for name in ("bin/essaim", "bin/essaimd", "libexec/essaim-engine", "lib/systemd/system/essaimd.service", "lib/sysusers.d/essaim.conf",
                     "lib/tmpfiles.d/essaim.conf", "share/bash-completion/completions/essaim", "share/man/man1/essaim.1", "share/essaim/essaim-demo.gguf"):
            self.assertTrue(os.path.exists(os.path.join(prefix, name)), name)
        with open(os.path.join(prefix, "lib/systemd/system/essaimd.service")) as f:
            unit = f.read()
        self.assertIn("ExecStart=/usr/local/bin/essaimd --home", unit)
        self.assertNotIn("@", unit.replace("@system-service", "").replace("@privileged", "").replace("@resources", "").replace("@keyring", ""))

    def test_install_prints_every_change_and_a_second_one_changes_nothing(self):
        m = self.machine
        before = tree(m.top)
        said = m.service("install", "native", self.stages[0])[1]
        after = tree(m.top)
        for path in set(after) - set(before):
            if os.path.isdir(m.path(path)) or path.startswith("var/lib/essaim/"):
                continue
            if path.endswith("-") or path.endswith(".lock"):          # the copies that passwd(5) tools keep
                continue
            self.assertIn("/" + path, said, "said nothing of it")
        self.assertTrue(m.ids())
        again = m.service("install", "native", self.stages[0])[1]
        self.assertEqual(again.strip(), "")
        self.assertEqual({k: v for k, v in tree(m.top).items()}, after)

    def test_folders_have_their_owners_and_modes(self):
        m = self.machine
        m.service("install", "native", self.stages[0])
        uid, gid = m.ids()
        for name, mode, owner in (("home", 0o2750, uid), ("files", 0o2775, 0)):
            st = os.stat(m.path("var/lib/essaim/" + name))
            self.assertEqual((st.st_mode & 0o7777, st.st_uid, st.st_gid), (mode, owner, gid), name)

    def test_upgrade_keeps_the_home_and_rollback_goes_back_and_forth(self):
        m = self.machine
        m.service("install", "native", self.stages[0])
        m.write("var/lib/essaim/home/keys/node.key", "precious")
        m.service("upgrade", "native", self.stages[1])
        self.assertEqual(self.version(), "two")
        m.service("rollback")
        self.assertEqual(self.version(), "one")
        m.service("rollback")
        self.assertEqual(self.version(), "two")
        self.assertEqual(m.read("var/lib/essaim/home/keys/node.key"), "precious")
        self.assertNotIn("next", os.listdir(m.path("var/lib/essaim")))

    def test_interrupted_runs_are_carried_on(self):
        m = self.machine
        m.service("install", "native", self.stages[0])
        state = m.path("var/lib/essaim")
        # between the two renames of an upgrade; and with half a copy left behind
        shutil.copytree(os.path.join(state, "root"), os.path.join(state, "next"), symlinks=True)
        m.write("var/lib/essaim/next/usr/local/share/essaim/version", "three\n")
        os.rename(os.path.join(state, "root"), os.path.join(state, "root.previous"))
        said = m.service("install", "native", self.stages[0])[1]
        self.assertIn("interrupted", said)
        self.assertEqual(self.version(), "one")
        os.makedirs(os.path.join(state, "next/usr"))
        m.service("upgrade", "native", self.stages[1])
        self.assertEqual(self.version(), "two")

    def test_uninstall_leaves_the_home_and_says_so_and_purge_leaves_nothing(self):
        m = self.machine
        before = tree(m.top)
        m.service("install", "native", self.stages[0])
        m.write("var/lib/essaim/home/keys/node.key", "precious")
        said = m.service("uninstall")[1]
        self.assertIn("var/lib/essaim/home", said)
        self.assertIn("--purge", said)
        self.assertEqual(m.read("var/lib/essaim/home/keys/node.key"), "precious")
        self.assertFalse([p for p in tree(m.top) if p.startswith(("usr/local/bin/", "etc/systemd", "etc/sysusers")) and not os.path.isdir(m.path(p))])
        self.assertEqual({p for p in set(tree(m.top)) ^ set(before) if p.startswith(("usr/", "etc/systemd"))}, set(), "folders too")
        m.service("uninstall", "--purge")
        left = {p for p in set(tree(m.top)) - set(before) if not p.startswith("etc/") or not p.endswith(("-", ".lock"))}
        self.assertEqual({p for p in left if not os.path.isdir(m.path(p))}, set())
        self.assertIsNone(m.ids())

    def test_refusals_are_clear_and_change_nothing(self):
        for release, words in (("ID=fedora\nVERSION_ID=41\n", "not Debian"), ("ID=debian\nVERSION_ID=\"11\"\nVERSION_CODENAME=bullseye\n", "Debian 11")):
            m = Machine(release)
            self.addCleanup(m.remove)
            before = tree(m.top)
            status, said = m.service("install", "native", self.stages[0], ok=False)
            self.assertEqual(status, 1)
            self.assertIn(words, said)
            self.assertEqual(tree(m.top), before)
        m = self.machine
        m.write("usr/local/bin/essaim", "somebody else's")
        status, said = m.service("install", "native", self.stages[0], ok=False)
        self.assertEqual(status, 1)
        self.assertIn("was not installed by this", said)
        self.assertEqual(m.read("usr/local/bin/essaim"), "somebody else's")
        status, said = m.service("upgrade", "native", self.stages[0], ok=False)
        status, said = Machine().service("rollback", ok=False)
        self.assertIn("no earlier version", said)

    def test_no_space_is_refused_before_anything_is_done(self):
        unshare = unshared()
        if not unshare:
            self.skipTest("no mount namespace here")
        m = self.machine
        done = subprocess.run([*unshare, "sh", "-c",
                               'mount -t tmpfs -o size=8m tmpfs "$1/var/lib" && exec "$2" install native "$3"', "-", m.top, SERVICE, self.stages[0]],
                              env={**os.environ, "ESSAIM_HOST": m.top}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("are needed. Make room", done.stdout)
        self.assertIsNone(m.ids())

    def test_the_unit_is_sound_and_little_exposed(self):
        unit = os.path.join(self.stages[0], "usr/local/lib/systemd/system/essaimd.service")
        if not shutil.which("systemd-analyze"):
            self.skipTest("systemd is not installed")
        done = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=25", unit],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if "no such option" in done.stdout or "unrecognized" in done.stdout:
            self.skipTest("an older systemd-analyze")
        self.assertEqual(done.returncode, 0, done.stdout[-300:])
        self.assertNotIn("ignoring", done.stdout)

        # As it stands, and with the drop-in of a root; the programs are those of the stage, the network's targets are not here.
        with open(unit) as f:
            text = f.read().replace("/usr/local/bin/", self.stages[0] + "/usr/local/bin/")
        with open(os.path.join(TOP, "contrib/systemd/root.conf")) as f:
            root = f.read()
        for name, whole in (("plain", text), ("root", text + root), ("broken", text.replace("ProtectHome=yes", "ProtectHome=perhaps"))):
            path = self.machine.path("etc/%s.service" % name)
            with open(path, "w") as f:
                f.write(whole)
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if name == "broken":
                self.assertIn("ProtectHome", done.stdout, "verify notices nothing here")
            else:
                self.assertEqual((done.returncode, done.stdout), (0, ""))


UNSHARED = """
set -e
home=$1 uid=$2 gid=$3 root=$4
shift 4
# As the unit has it: everything read-only but the home, /tmp its own, /home and /root not there, no devices but harmless ones.
mount --rbind / "$root"
cd "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
for folder in home root; do [ ! -d "$root/$folder" ] || mount -t tmpfs -o ro tmpfs "$root/$folder"; done
mkdir -p "$root$MACHINE"
mount --rbind "$MACHINE" "$root$MACHINE"
mount -o remount,bind,ro "$root$MACHINE"
mount --bind "$MACHINE/$home" "$root$MACHINE/$home"
mount -o remount,bind,rw "$root$MACHINE/$home"
exec chroot "$root" setpriv --reuid "$uid" --regid "$gid" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""


@unittest.skipUnless(os.geteuid() == 0, "needs root: a mount namespace, another user")
class Confined(Staged):
    """The installed programs under what of the unit can be had without systemd."""

    def test_the_service_answers_its_user_root_and_its_group_and_nobody_else(self):
        unshare = unshared()
        if not unshare:
            self.skipTest("no mount namespace here")
        m = self.machine
        m.service("install", "native", self.stages[0])
        uid, gid = m.ids()
        home = m.path("var/lib/essaim/home")
        programs = {**os.environ, "ESSAIM_ENGINE": m.path("var/lib/essaim/root/usr/local/libexec/essaim-engine"),
                    "ESSAIM_DAEMON": m.path("var/lib/essaim/root/usr/local/bin/essaimd"),
                    "ESSAIM_DEMO_MODEL": m.path("var/lib/essaim/root/usr/local/share/essaim/essaim-demo.gguf")}
        essaim = m.path("var/lib/essaim/root/usr/local/bin/essaim")
        settings = ["link.listen=127.0.0.1", "link.port=0", "http.port=0", "torrent.listen=127.0.0.1", "torrent.port=0"]
        options = [word for s in settings for word in ("--set", s)]
        subprocess.run([essaim, "--home", home, "--json", "init", "--association", "A", "--name", "n", "--memory", "256M", "--demo-model", *options],
                       env=programs, check=True, stdout=subprocess.DEVNULL)
        for name in ("essaim.conf", "keys/node.key", "essaim-demo.gguf"):
            self.assertEqual(os.stat(os.path.join(home, name)).st_uid, uid, name + ": root made the home as the service's user")

        inside = m.path("var/lib/essaim")
        mount = tempfile.mkdtemp(prefix="essaim-view.")
        self.addCleanup(os.rmdir, mount)
        daemon = subprocess.Popen([*unshare, "sh", "-c", UNSHARED, "-", "var/lib/essaim/home", str(uid), str(gid), mount,
                                   "env", "ESSAIM_ENGINE=%s/root/usr/local/libexec/essaim-engine" % inside,
                                   inside + "/root/usr/local/bin/essaimd", "--home", inside + "/home"],
                                  env={**os.environ, "MACHINE": m.top}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        def run(*words, user=0, groups="--clear-groups", said=""):
            return subprocess.run(["setpriv", "--reuid", str(user), "--regid", str(user), groups, "--", essaim, "--home", home, "--json", *words],
                                  env=programs, input=said, stdout=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 60
            while run("status").returncode:
                if daemon.poll() is not None or time.monotonic() > end:
                    daemon.kill()
                    self.fail("the daemon did not come up: " + daemon.stdout.read())
                time.sleep(0.1)
            member, stranger = run("status", user=65534, groups="--groups=%d" % gid), run("status", user=65534)
            self.assertEqual(member.returncode, 0, member.stdout)
            self.assertEqual(json.loads(member.stdout)["node"]["name"], "n")
            self.assertEqual(stranger.returncode, 3, stranger.stdout)
            # An engine starts in its sandbox, under no-new-privs and a read-only root, and a member of the group gets an answer.
            answer = run("chat", "--max-tokens", "4", said="Bonjour\n", user=65534, groups="--groups=%d" % gid)
            self.assertEqual(answer.returncode, 0, answer.stdout)
            models = json.loads(run("model", "list").stdout)["models"]
            self.assertTrue(models[0]["engine"]["sandboxed"])
            found = json.loads(run("doctor").stdout)
            self.assertEqual([c for c in found["checks"] if c["state"] == "bad"], [])
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
            daemon.stdout.close()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
