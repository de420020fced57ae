"""`run`: what a command in a container gets, flag by flag, with all storage drivers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kit import images
from tests.kit.command import Rcontain

pytestmark = [
    pytest.mark.userns,
    pytest.mark.fuse,
    pytest.mark.tun,
    pytest.mark.registry,
    pytest.mark.usefixtures("clean"),
]


def sh(box: Rcontain, demo: str, script: str, *flags: str, input: bytes | None = None) -> str:
    """The output of a shell script in a fresh container."""
    return box.text("run", "--rm", *flags, demo, "sh", "-c", script, input=input)


def test_streams_and_exit_code(box: Rcontain, demo: str) -> None:
    done = box("run", "--rm", "-i", demo, "sh", "-c", "cat; echo oops >&2; exit 42", input=b"in\0put\n", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, b"in\0put\n", b"oops\n")


def test_without_i_there_is_no_input(box: Rcontain, demo: str) -> None:
    assert box("run", "--rm", demo, "cat", input=b"not for you").stdout == b""


def test_a_lot_of_output_arrives_whole(box: Rcontain, demo: str) -> None:
    done = box("run", "--rm", demo, "sh", "-c", "yes 0123456789abcde | head -c 8000000; echo end >&2")
    assert done.stdout == (b"0123456789abcde\n" * 500_000)[:8_000_000]
    assert done.stderr == b"end\n"


def test_a_lot_of_input_arrives_whole(box: Rcontain, demo: str) -> None:
    data = os.urandom(3_000_000)
    assert box("run", "--rm", "-i", demo, "cat", input=data).stdout == data


def test_a_closed_output_ends_the_command(box: Rcontain, demo: str) -> None:
    """As `rcontain run … yes | head -1`."""
    with box.started("run", "--rm", demo, "yes") as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == b"y\n"
        running.stdout.close()
        box("kill", box.text("ps", "-q"), check=False)
        running.wait(20)
        assert b"Traceback" not in running.stderr.read()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("true", 0),
        ("exit 255", 255),
        ("sh -c 'kill -TERM $$'; exit $?", 143),
        ("sh -c 'kill -9 $$'; exit $?", 137),
        ("exec nosuch", 127),
    ],
)
def test_exit_codes(box: Rcontain, demo: str, script: str, code: int) -> None:
    assert box("run", "--rm", demo, "sh", "-c", script, check=False).returncode == code


def test_the_first_process_killed_from_outside(box: Rcontain, demo: str) -> None:
    with box.started("run", "--rm", "--name", "victim", demo, "sh", "-c", "echo up; sleep 100") as running:
        assert running.stdout is not None and running.stdout.readline() == b"up\n"
        assert box.text("kill", "victim") == "victim"
        assert running.wait(10) == 137


def test_signals_reach_the_command(box: Rcontain, demo: str) -> None:
    script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'exit 5' INT; echo up; while :; do sleep 0.05; done"
    with box.started("run", "--rm", demo, "sh", "-c", script) as running:
        assert running.stdout is not None and running.stdout.readline() == b"up\n"
        running.send_signal(1)
        assert running.stdout.readline() == b"hup\n"
        running.send_signal(10)
        assert running.stdout.readline() == b"usr1\n"
        running.send_signal(2)
        assert running.wait(10) == 5


def test_an_interrupt_reaches_the_command_from_a_scripts_background(box: Rcontain, demo: str) -> None:
    """There a shell starts programs with SIGINT ignored."""
    script = "trap 'exit 5' INT; echo up; while :; do sleep 0.05; done"
    words = ["env", "--ignore-signal=INT", *box.words("run", "--rm", demo, "sh", "-c", script)]
    with subprocess.Popen(words, env=box.environment, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 5


def test_a_command_that_ignores_sigterm_as_first_process(box: Rcontain, demo: str) -> None:
    """pid_namespaces(7): without a handler the first process gets no signal of the container; --init has handlers."""
    with box.started("run", "--rm", "--init", demo, "sh", "-c", "echo up; sleep 100") as running:
        assert running.stdout is not None and running.stdout.readline() == b"up\n"
        running.terminate()
        assert running.wait(10) == 143


def test_layers_owners_and_modes(box: Rcontain, demo: str) -> None:
    names = "srv/kept usr/bin/su-id home/user etc/shadow tmp"
    script = f"cd /; stat -c '%n %a %u:%g' {names}; find srv | sort; cat etc/motd"
    assert sh(box, demo, script).splitlines() == [
        "srv/kept 644 1000:50",
        "usr/bin/su-id 4755 0:0",
        "home/user 750 1000:1000",
        "etc/shadow 640 0:42",
        "tmp 1777 0:0",
        "srv",
        "srv/hidden",
        "srv/hidden/new",
        "srv/kept",
        "three layers",
    ]


def test_a_directory_that_a_layer_only_implies(box: Rcontain, demo: str, driver: str) -> None:
    """The topmost layer has files in /srv and no entry for /srv itself, so that is as the layer below has it.

    An extracted tree cannot say so: there it is a new directory, as with Podman.
    """
    assert sh(box, demo, "stat -c '%a %u:%g' /srv") == ("755 0:0" if driver == "overlay" else "2775 0:50")


def test_hard_links_are_one_file(box: Rcontain, demo: str) -> None:
    assert (
        sh(box, demo, "stat -c %i /bin/sh /bin/ls /bin/busybox | sort -u | wc -l; stat -c %h /bin/sh").split()[0] == "1"
    )


def test_setuid_root_gives_root(box: Rcontain, demo: str) -> None:
    """busybox's su waits for a password as the effective user that the file's owner and mode give it."""
    script = """
        cd /tmp; ln -s /usr/bin/su-id su; busybox mkfifo fifo; sleep 60 >fifo &
        ./su root <fifo >/dev/null 2>&1 &
        until [ "$(cat /proc/$!/comm)" = su ]; do :; done
        sed -n 's/^Uid:.//p' /proc/$!/status"""
    assert sh(box, demo, script, "-u", "user").split()[:2] == ["1000", "0"]


def test_every_container_has_its_own_writable_layer(box: Rcontain, demo: str) -> None:
    script = "echo mine >/etc/motd; rm /srv/kept; mkdir /new; mv /srv /moved; cat /etc/motd; find /moved /new | sort"
    assert sh(box, demo, script).split() == ["mine", "/moved", "/moved/hidden", "/moved/hidden/new", "/new"]
    assert sh(box, demo, "cat /etc/motd; ls /srv; ls -d /new /moved 2>/dev/null || true").splitlines() == [
        "three layers",
        "hidden",
        "kept",
    ]


def test_what_a_container_wrote_is_there_when_it_starts_again(box: Rcontain, demo: str) -> None:
    box("run", "--name", "twice", demo, "sh", "-c", "ls /etc/mark 2>/dev/null; echo >/etc/mark; chown 5:6 /etc/mark")
    assert box.text("start", "-a", "twice") == "/etc/mark"
    assert box.text("rm", "twice") == "twice"


def test_environment(box: Rcontain, demo: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("# comment\nFROM_FILE=a b\n  INDENTED=1\nHOST_VALUE\nBOTH=file\n\nEMPTY=\n")
    flags = (
        "--env-file",
        str(tmp_path / "file"),
        "-e",
        "BOTH=flag",
        "-e",
        "HOST_VALUE2",
        "-e",
        "ABSENT",
        "-e",
        "X=a=b",
    )
    done = box("run", "--rm", *flags, demo, "env", env={"HOST_VALUE": "passed", "HOST_VALUE2": "also", "SECRET": "no"})
    found = dict(line.partition("=")[::2] for line in done.stdout.decode().splitlines())
    assert found.pop("HOSTNAME").isalnum()
    assert found == {
        "PATH": "/bin:/usr/bin",
        "DEMO": "1",
        "HOME": "/root",
        "container": "rcontain",
        "FROM_FILE": "a b",
        "INDENTED": "1",
        "HOST_VALUE": "passed",
        "HOST_VALUE2": "also",
        "BOTH": "flag",
        "EMPTY": "",
        "X": "a=b",
    }


def test_environment_replaces_what_the_image_has(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "echo $DEMO $PATH $HOME", "-e", "DEMO=2", "-e", "HOME=/x") == "2 /bin:/usr/bin /x"


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups"),
    [
        ("user", 1000, 1000, {50, 1000}),
        ("user:0", 1000, 0, {0}),
        ("1000", 1000, 1000, {50, 1000}),
        ("7", 7, 0, {0}),
        ("7:8", 7, 8, {8}),
        ("nobody", 65534, 65534, {65534}),
        ("0:staff", 0, 50, {50}),
    ],
)
def test_user(box: Rcontain, demo: str, user: str, uid: int, gid: int, groups: set[int]) -> None:
    """The primary group is a supplementary one too: else a process could leave it, and with it what it forbids."""
    own, primary, all_groups = sh(
        box, demo, "sed -n -e 's/^Uid:.//p' -e 's/^Gid:.//p' -e 's/^Groups:.//p' /proc/self/status", "-u", user
    ).split("\n")
    assert own.split() == [str(uid)] * 4 and primary.split() == [str(gid)] * 4
    assert set(map(int, all_groups.split())) == groups


def test_working_directory(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "pwd") == "/"
    assert sh(box, demo, "pwd", "-w", "/home/user") == "/home/user"
    assert sh(box, demo, "pwd; stat -c %a .", "-w", "/made/for/it") == "/made/for/it\n755"


def test_entrypoint(box: Rcontain, demo: str) -> None:
    assert box.text("run", "--rm", "--entrypoint", "echo", demo, "a", "b") == "a b"
    assert box.text("run", "--rm", "--entrypoint", '["echo", "x y"]', demo, "z") == "x y z"
    assert box.text("run", "--rm", "--entrypoint", "", demo, "echo", "bare") == "bare"


def test_host_name(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "hostname; cat /etc/hostname; echo $HOSTNAME", "-h", "some-host").split() == ["some-host"] * 3
    identifier, name = sh(box, demo, "hostname; cat /etc/hostname").split()
    assert identifier == name and len(name) == 12 and int(name, 16) >= 0


def test_bind_mounts(box: Rcontain, demo: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("from the host\n")
    assert sh(box, demo, "cat /mnt/a/file; echo new >/mnt/a/made", "-v", f"{source}:/mnt/a") == "from the host"
    made = source / "made"
    assert made.read_text() == "new\n" and made.stat().st_uid == os.getuid()
    script = "echo x >/mnt/f; cat /mnt/f; (echo y >/mnt/ro/made) 2>&1; touch /mnt/ro/x 2>&1; true"
    said = sh(box, demo, script, "-v", f"{made}:/mnt/f", "--mount", f"type=bind,src={source},dst=/mnt/ro,ro")
    assert said.splitlines()[0] == "x" and said.count("Read-only file system") == 2
    assert made.read_text() == "x\n"


def test_a_bind_mount_from_the_callers_directory(box: Rcontain, demo: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("relative\n")
    assert box("run", "--rm", "-v", ".:/w", "-w", "/w", demo, "cat", "here", cwd=tmp_path).stdout == b"relative\n"


def test_named_volumes(box: Rcontain, demo: str, driver: str) -> None:
    script = "ls -A /home/user; stat -c '%a %u:%g' /home/user /home/user/.profile; echo more >/home/user/more"
    said = sh(box, demo, script, "-v", f"vol-{driver}:/home/user").splitlines()
    assert said == [".profile", "750 1000:1000", "644 1000:1000"]
    said = sh(box, demo, "cat /other/more; ls -A /other", "-v", f"vol-{driver}:/other:ro").split()
    assert said == ["more", ".profile", "more"]


def test_tmpfs(box: Rcontain, demo: str) -> None:
    script = "grep ' /scratch ' /proc/mounts; df -k /scratch | tail -1; stat -c %a /scratch"
    mount, df, mode = sh(box, demo, script, "--tmpfs", "/scratch:size=2m,mode=1777,noexec").splitlines()
    assert mount.startswith("tmpfs /scratch tmpfs rw,nosuid,nodev,noexec,") and df.split()[1] == "2048"
    assert mode == "1777"
    assert sh(box, demo, "grep -c ' /t tmpfs ' /proc/mounts", "--mount", "type=tmpfs,destination=/t") == "1"


def test_read_only(box: Rcontain, demo: str) -> None:
    """Podman's --read-only leaves /tmp, /var/tmp, /run and /dev/shm writable (--read-only-tmpfs is on)."""
    said = sh(box, demo, "touch /x 2>&1; touch /etc/x 2>&1; touch /tmp/x /run/x /dev/shm/x && echo fine", "--read-only")
    assert said.splitlines() == [
        "touch: /x: Read-only file system",
        "touch: /etc/x: Read-only file system",
        "fine",
    ]


def test_init(box: Rcontain, demo: str) -> None:
    """The small init is process 1, and reaps what the command leaves behind."""
    script = (
        "echo $$; cat /proc/1/comm; (sh -c 'exit 3' &); sleep 0.2; grep -l '^State:.Z' /proc/[0-9]*/status || echo none"
    )
    number, name, zombies = sh(box, demo, script, "--init").split("\n")
    assert number == "2" and name != "sh" and zombies == "none"


def test_labels_and_cidfile(box: Rcontain, demo: str, tmp_path: Path) -> None:
    cidfile = tmp_path / "cid"
    box("create", "--name", "labelled", "-l", "a=b", "-l", "c", "--cidfile", str(cidfile), demo)
    assert (
        box.text("inspect", "-f", '{{index .Config.Labels "a"}} {{index .Config.Labels "demo"}} {{.Id}}', "labelled")
        == f"b yes {cidfile.read_text()}"
    )
    box("rm", "labelled")


def test_cidfile_goes_with_a_container_that_is_removed(box: Rcontain, demo: str, tmp_path: Path) -> None:
    box("run", "--rm", "--cidfile", str(tmp_path / "cid"), demo, "true")
    assert not (tmp_path / "cid").exists()


def test_keep_id(auto_box: Rcontain, demo: str, tmp_path: Path) -> None:
    uid, gid = os.getuid(), os.getgid()
    script = "id -u; id -g; stat -c %u:%g /etc/shadow /srv/kept /m; touch /m/mine /tmp/x; stat -c %u:%g /m/mine /tmp/x"
    said = sh(auto_box, demo, script, "--userns", "keep-id", "-v", f"{tmp_path}:/m").split()
    own = f"{uid}:{gid}"
    assert said == [str(uid), str(gid), "0:42", "1000:50", own, own, own]
    assert (tmp_path / "mine").stat().st_uid == uid


def test_translated_ids_need_no_copy(auto_box: Rcontain, demo: str) -> None:
    script = "stat -c %u:%g /etc/shadow; echo x >>/etc/shadow; stat -c %u:%g /etc/shadow"
    auto_box("create", "--name", "translated", "--userns", "keep-id:uid=7,gid=8", demo, "sh", "-c", script)
    try:
        assert auto_box.text("inspect", "-f", "{{.GraphDriver.Name}}", "translated") == "packed"
        for _ in range(2):
            assert auto_box.text("start", "-a", "translated").split() == ["0:42", "0:42"]
    finally:
        auto_box("rm", "-f", "translated")


def test_a_large_image_starts_before_it_is_unpacked(auto_box: Rcontain, tmp_path: Path) -> None:
    """`run` takes the packed layers of an image that it has to fetch; `pull` unpacks it, and so the next one."""
    layout = images.demo_layout(str(tmp_path / "layout"))
    noise = random.Random(1).randbytes(17 << 20)
    layers = [*images.demo_layers(), images.tar([images.file("noise", noise)])]
    layout.image("large", [images.pack(raw) for raw in layers], config=images.demo_config())
    name = f"oci:{layout.path}:large"
    try:
        for number, driver in (("1", "packed"), ("2", "overlay")):
            auto_box("run", "--name", f"large{number}", name, "sh", "-c", "wc -c </noise; echo >/noise")
            assert auto_box.text("logs", f"large{number}") == str(len(noise))
            assert auto_box.text("inspect", "-f", "{{.GraphDriver.Name}}", f"large{number}") == driver
            image = auto_box.text("pull", "-q", name)
    finally:
        auto_box("rm", "-f", "large1", "large2")
        auto_box("rmi", "-f", image)


def test_host_user_namespace_maps_root_to_the_caller(box: Rcontain, demo: str, tmp_path: Path) -> None:
    sh(box, demo, "touch /m/root; touch /m/user; chown 1000 /m/user", "--userns", "host", "-v", f"{tmp_path}:/m")
    assert (tmp_path / "root").stat().st_uid == os.getuid()
    assert (tmp_path / "user").stat().st_uid not in (os.getuid(), 0, 1000)
    sh(box, demo, "rm /m/user", "-v", f"{tmp_path}:/m")


def test_umask_limits_and_niceness_of_the_caller_do_not_change_the_image(box: Rcontain, demo: str) -> None:
    assert sh(box, demo, "umask; touch /x; stat -c %a /x") == "0022\n644"


def test_quiet_run_says_nothing_about_the_pull(rcontain: Rcontain, demo: str) -> None:
    done = rcontain("run", "--rm", "-q", demo, "true")
    assert (done.stdout, done.stderr) == (b"", b"")


def test_global_storage_driver_flag(rcontain: Rcontain, demo: str) -> None:
    for name, kind in (("fuse", "fuse"), ("packed", "overlay"), ("overlay", "overlay"), ("auto", "overlay")):
        line = rcontain.text("--storage-driver", name, "run", "--rm", demo, "sh", "-c", "head -n 1 /proc/mounts")
        assert line.split()[1] == "/" and line.split()[2].startswith(kind), line


def test_devices_are_no_files_of_the_host(box: Rcontain, demo: str) -> None:
    said = sh(
        box, demo, "mknod /d c 1 3 2>&1 || busybox mknod /d c 1 3 2>&1; echo x >/dev/null; head -c 4 /dev/zero | wc -c"
    )
    assert said.endswith("4") and "Operation not permitted" in said


def test_a_directory_of_the_caller_that_is_gone(box: Rcontain, demo: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *box.words("run", "--rm", demo, "pwd")],
        cwd=gone,
        env=box.environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"/\n"), done.stderr


def test_closed_standard_streams(box: Rcontain, demo: str) -> None:
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *box.words("run", "--rm", demo, "sh", "-c", "exit 6")]
    assert subprocess.run(words, env=box.environment, cwd=box.home, timeout=60).returncode == 6


def test_output_into_a_file(box: Rcontain, demo: str, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out, open("/etc/passwd", "rb") as source:
        words = box.words("run", "--rm", "-i", demo, "sh", "-c", "cat; echo err >&2")
        subprocess.run(words, env=box.environment, stdin=source, stdout=out, stderr=out, check=True, timeout=60)
    text = (tmp_path / "out").read_text()
    assert text.replace("err\n", "", 1) == Path("/etc/passwd").read_text()
