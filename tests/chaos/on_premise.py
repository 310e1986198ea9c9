"""`ray up` of cluster/deploy/on_premise.yaml, over ssh to this machine: a head starts, a job submitted to it ends well,
nobody gets in without the token.

    python tests/chaos/on_premise.py

Needs sshd and rsync (Debian: openssh-server, rsync), and runs an sshd of its own as this user, on 127.0.0.1 and a high
port, with its own keys and home folders. The file is taken as it is but for what cannot be so on one machine: host and
port, the home folder, Ray's ports and folder, the environment (this one, instead of one installed over the network),
and `ray stop`, which would end every Ray of the machine: the head is ended by its processes' ids. Every wait has a
limit.
"""

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import requests
import yaml

from tests.support.ray_head import RAY, end_processes_of, free_ports, outsider

LIMIT_S = 600
VENV = Path(sys.executable).parent.parent


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[int]:
    """An sshd that lets this user in with the key of the home folder `folder`, into another, `folder/home`; yields its
    port."""
    [port] = free_ports(1)
    (folder / ".ssh").mkdir(mode=0o700)
    for path in (folder / ".ssh" / "id_ed25519", folder / "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    settings = {
        "ListenAddress": "127.0.0.1",
        "Port": port,
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / ".ssh" / "id_ed25519.pub",
        "PidFile": folder / "sshd.pid",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "SetEnv": f"HOME={folder / 'home'}",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines its unprivileged part
    server = subprocess.Popen(
        [
            shutil.which("sshd") or "/usr/sbin/sshd",
            "-D",
            "-f",
            str(folder / "sshd_config"),
            "-E",
            str(folder / "sshd.log"),
        ]
    )
    try:
        yield port
    finally:
        server.terminate()
        server.wait(timeout=20)


def tested_copy(ssh_port: int, folder: Path, ports: dict[str, int]) -> dict[str, Any]:
    """cluster/deploy/on_premise.yaml for this one machine."""
    text = (ROOT / "cluster" / "deploy" / "on_premise.yaml").read_text()
    for before, after in {
        "6379": str(ports["gcs"]),
        "--dashboard-port=8265": f"--dashboard-port={ports['dashboard']}",
        "ray start --head": f"ray start --head --temp-dir={folder / 'ray'} --num-cpus=2 "
        "--object-store-memory=200000000 --disable-usage-stats"
        f" --ray-client-server-port={ports['client']} --dashboard-agent-listen-port={ports['agent']} "
        f"--metrics-export-port={ports['metrics']}",
        "~/soundstorm/.venv/bin/ray stop": "echo ray stop would end every Ray here",
        "~/soundstorm/.venv/bin/python -m pip install --quiet --constraint ~/soundstorm/constraints.txt --editable "
        "~/soundstorm'[cluster]'": ("~/soundstorm/.venv/bin/python -c 'import ray, soundfile'"),
    }.items():
        assert before in text, before
        text = text.replace(before, after)
    config: dict[str, Any] = yaml.safe_load(text)
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {
        "ssh_user": getpass.getuser(),
        "ssh_private_key": str(folder / ".ssh" / "id_ed25519"),
    }  # ssh knows the account's ~/ only
    config["cluster_name"] = f"on-premise-{ssh_port}"
    config["setup_commands"].insert(0, f"ln -sfn {VENV} ~/soundstorm/.venv")
    return config


def ray(*arguments: str, environment: dict[str, str]) -> str:
    """Output of a `ray` command, which must succeed."""
    done = subprocess.run(
        [*RAY, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise SystemExit(
            f"ray {' '.join(arguments[:2])} ended with {done.returncode}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
    return done.stdout + done.stderr


def main() -> None:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ray-ssh-", dir="/tmp"))
    for name in ("home", "home/.ray", "home/soundstorm", ".ray", "bin"):
        (folder / name).mkdir(mode=0o700)
    ports = dict(zip(("gcs", "dashboard", "client", "agent", "metrics"), free_ports(5), strict=True))
    client = outsider() | {"RAY_TMPDIR": str(folder), "HOME": str(folder), "RAY_AUTH_MODE": "token"}
    try:
        for name, content in {
            "auth_token": os.urandom(32).hex(),
            "storage.env": f"RAY_TMPDIR={folder}\nOMP_NUM_THREADS=1\n",
        }.items():
            with os.fdopen(os.open(folder / ".ray" / name, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(content)
        with ssh_server(folder) as ssh_port:
            # Ray's launcher has no setting for the port: its `ssh` and `rsync -e ssh` find this one first.
            (folder / "bin" / "ssh").write_text(
                f'#!/bin/sh\nexec {shutil.which("ssh")} -p {ssh_port} -o UserKnownHostsFile=/dev/null "$@"\n'
            )
            (folder / "bin" / "ssh").chmod(0o755)
            client["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
            (folder / "cluster.yaml").write_text(yaml.safe_dump(tested_copy(ssh_port, folder, ports), width=1000))
            ray("up", "--yes", "--no-config-cache", str(folder / "cluster.yaml"), environment=client)
            print(f"{time.monotonic() - began:.0f} s: `ray up` has started a head over ssh")
            url = f"http://127.0.0.1:{ports['dashboard']}"
            client["RAY_API_SERVER_ADDRESS"] = url
            log = ray("job", "submit", "--working-dir", ".", "--", "python", "-m", "jobs.doctor", environment=client)
            assert "this machine is ready" in log and "joined in" in log and "1 nodes, 2 CPUs" in log, log
            print(f"{time.monotonic() - began:.0f} s: a job submitted to it has ended well")
            status = requests.get(f"{url}/api/jobs/", timeout=60).status_code
            assert status == 401, status
            modes = {
                name: oct((folder / "home" / ".ray" / name).stat().st_mode & 0o777)
                for name in ("auth_token", "storage.env")
            }
            assert set(modes.values()) == {"0o600"}, modes
            print(f"without the token: {status}; the token and the storage's settings on the head: {modes}")
    finally:
        end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{time.monotonic() - began:.0f} s in all; every process ended by its id")


if __name__ == "__main__":
    main()
