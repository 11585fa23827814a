# Tries what its arguments say and prints what came of it: `ok` or the number of the error.
import ctypes, os, resource, socket, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)


def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def write(path, text="x"):
    with open(path, "w") as file:
        file.write(text)


def replace(path):
    write(path + ".partial")
    os.replace(path + ".partial", path)


def tcp(address, listen=False):
    with socket.socket() as end:
        if listen:
            end.bind(("127.0.0.1", 0))
            end.listen()
        else:
            end.connect(("127.0.0.1", int(address)))


def abstract(name):
    with socket.socket(socket.AF_UNIX) as end:
        end.connect("\0" + name)


def forks(most):
    children = []
    try:
        for _ in range(int(most)):
            children.append(subprocess.Popen(["/bin/sleep", "60"]))
    finally:
        for child in children:
            child.kill()
            child.wait()


def execute(path):
    return subprocess.run([path]).returncode


attempts = {
    "read": lambda path: len(open(path, "rb").read()),
    "list": lambda path: len(os.listdir(path)) >= 0,
    "write": write,
    "replace": replace,
    "truncate": lambda path: os.truncate(path, 0),
    "link": lambda path: os.symlink("/etc/shadow", path),
    "pipe": os.mkfifo,
    "execute": execute,
    "connect": tcp,
    "listen": lambda _: tcp(None, True),
    "abstract": abstract,
    "socket": lambda _: socket.socket(socket.AF_UNIX).close(),
    "pair": lambda _: [end.close() for end in socket.socketpair()] and None,
    "signal": lambda pid: os.kill(int(pid), 18),
    "ptrace": lambda pid: call(libc.ptrace(0x4206, int(pid), 0, 0)) and None,
    "mount": lambda path: call(libc.mount(b"none", path.encode(), b"tmpfs", 0, None)) or libc.umount(path.encode()),
    "unshare": lambda _: call(libc.unshare(0x10000000)),
    "call": lambda number: call(libc.syscall(ctypes.c_long(int(number, 0)), 0, 0, 0, 0, 0, 0)),
    "forks": forks,
    "files": lambda _: " ".join(sorted(os.listdir("/proc/self/fd"))),
    "limits": lambda _: (resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)),
    "privileges": lambda _: open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0],
    "groups": lambda _: open("/proc/self/cgroup").read(),
    "helper": lambda _: execute("/bin/true"),
    "numbers": lambda _: int.from_bytes(os.urandom(4), "big") >= 0 and os.cpu_count() > 0,
}

try:
    seen = attempts[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else None)
    print("ok" if seen is None else f"ok {seen}")
except OSError as error:
    print(error.errno)
