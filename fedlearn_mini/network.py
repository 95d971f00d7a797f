"""Four hospitals as processes of their own on this machine: `python -m fedlearn_mini.network [--rounds 3]`.

Certificates, a key for each hospital, a folder with its records, a SuperLink, four SuperNodes over TLS, and a run whose
result is compared with the notebook's. Needs the extra `flower`, and about ten seconds a round.
"""

import argparse
import datetime
import ipaddress
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from . import data, models
from .federation import fit
from .plan import Plan
from .store import load

STUDY = '''"""What the hospitals agreed on: the same file on the server and at every hospital."""
from fedlearn_mini import models
from fedlearn_mini.flower import client_app, server_app
from fedlearn_mini.plan import Plan

names = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
model = models.logistic(13)
plan = Plan(lr=0.3, steps=5)
client = client_app(model, plan, names)
server = server_app(model, plan, names)
'''
PROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "study"
version = "1.0.0"
description = "Four hospitals"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "hospitals"

[tool.flwr.app.components]
serverapp = "study:server"
clientapp = "study:client"

[tool.flwr.app.config]
rounds = 3
deadline = 60.0
patience = 120.0
quorum = 1.0
state = "state.npz"
"""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
TEXT = re.compile(r"\x1b\[[0-9;]*m")


def write(path: Path, content: bytes, secret=False):
    """A file; one that is secret can be read by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600 if secret else 0o644)
    path.write_bytes(content)


def pem(key):
    """A private key as PEM."""
    forms = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*forms)


def certificates(folder: Path, address="127.0.0.1", days=30):
    """ca.crt, server.pem and server.key in folder/tls: a small authority, and its certificate for the server."""
    authority, server = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "consortium of four hospitals")])
    host = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)])

    def made(subject, key, extensions):
        one = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(key.public_key())
        one = one.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        one = one.not_valid_after(now + datetime.timedelta(days=days))
        for extension, critical in extensions:
            one = one.add_extension(extension, critical)
        return one.sign(authority, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)

    where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address)), x509.DNSName("localhost")])
    root = made(name, authority, [(x509.BasicConstraints(ca=True, path_length=0), True)])
    write(folder / "tls" / "ca.crt", root)
    write(folder / "tls" / "server.pem", made(host, server, [(where, False)]))
    write(folder / "tls" / "server.key", pem(server), secret=True)


def node_key(folder: Path, name):
    """A hospital's key pair as SuperNodes take it (EC P-384, OpenSSH), and a secret for its dice."""
    key = ec.generate_private_key(ec.SECP384R1())
    forms = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    write(folder / name / "key", key.private_bytes(*forms), secret=True)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write(folder / name / "key.pub", public)
    write(folder / name / "secret", os.urandom(32), secret=True)


def prepare(folder: Path, address, port):
    """What four hospitals and a server need, each in a folder of its own: the training records (Hospitals)."""
    train, _ = data.prepare(data.load("heart"), rng=np.random.default_rng(0))
    certificates(folder, address)
    for name in train.names:
        node_key(folder, name)
        X, y = train.one(name)
        np.savez(folder / name / "records.npz", X=X, y=y)
    write(folder / "app" / "study.py", STUDY.encode())
    write(folder / "app" / "pyproject.toml", PROJECT.encode())
    link = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{address}:{port}"\n'
    write(folder / "home" / "config.toml", f'{link}root-certificates = "{folder}/tls/ca.crt"\n'.encode())
    return train


class Machines:
    """The processes of a run, each with its own log; all that were started are ended."""

    def __init__(self, folder: Path, address="127.0.0.1", port=18443):
        self.folder, self.address, self.port, self.running = folder, address, port, {}
        self.env = os.environ | QUIET | {"FLWR_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.env['PATH']}"

    def start(self, name, *command):
        """A process in the background."""
        log = open(self.folder / f"{name}.log", "ab")
        command = [str(Path(sys.executable).parent / command[0]), *map(str, command[1:])]
        self.running[name] = subprocess.Popen(command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
        log.close()

    def flwr(self, *command):
        """A command of Flower to its end: its exit code and what it said."""
        command = [str(Path(sys.executable).parent / "flwr"), *map(str, command)]
        done = subprocess.run(command, env=self.env, cwd=self.folder / "app", capture_output=True, text=True)
        return done.returncode, TEXT.sub("", done.stdout + done.stderr)

    def superlink(self):
        """The server's half of Flower: it passes messages on, and starts the ServerApp."""
        tls = self.folder / "tls"
        certificates = "--ssl-ca-certfile", tls / "ca.crt", "--ssl-certfile", tls / "server.pem"
        where = "--host", self.address, "--port", self.port, "--ssl-keyfile", tls / "server.key"
        options = "--enable-supernode-auth", "--disable-runtime-dependency-installation"
        self.start("superlink", "flower-superlink", *where, *certificates, *options)
        self.until(lambda: self.flwr("supernode", "list", "here")[0] == 0, "the SuperLink does not answer")

    def supernode(self, name, port):
        """A hospital: its key is registered under its name, then its SuperNode runs."""
        mine = self.folder / name
        code, said = self.flwr("supernode", "register", mine / "key.pub", "here", "--name", name)
        if code:
            raise RuntimeError(f"the key of {name} could not be registered: {said.strip()}")
        node = f"name='{name}' data='{mine / 'records.npz'}' lesson=true"
        where = "--superlink", f"{self.address}:{self.port}", "--port", port
        keys = "--root-certificates", self.folder / "tls" / "ca.crt", "--auth-supernode-private-key", mine / "key"
        self.start(name, "flower-supernode", *where, *keys, "--node-config", node)

    def until(self, ready, otherwise, seconds=90):
        """Wait; a process that ended, or a minute and a half, is an error with the end of its log."""
        end = time.monotonic() + seconds
        while not ready():
            gone = [name for name, process in self.running.items() if process.poll() is not None]
            if gone or time.monotonic() > end:
                logs = [(self.folder / f"{name}.log").read_text(errors="replace")[-500:] for name in gone]
                raise RuntimeError(f"{otherwise}. {' '.join(gone)} {' '.join(logs)}")
            time.sleep(0.5)

    def end(self):
        """End every process that was started here."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def demo(rounds=3, port=18443, folder=None, say=print):
    """Train in five processes and compare with `fit`: the largest difference of θ."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(folder or temporary).resolve()
        train = prepare(folder, "127.0.0.1", port)
        machines, state = Machines(folder, port=port), folder / "state.npz"
        begin = time.monotonic()
        try:
            machines.superlink()
            for seat, name in enumerate(train.names):
                machines.supernode(name, port + 100 + seat)
            say(f"a SuperLink and {len(train.names)} SuperNodes are up after {time.monotonic() - begin:.0f} s")
            settings = f"rounds={rounds} state='{state}'"
            code, said = machines.flwr("run", ".", "here", "--run-config", settings)
            if code:
                raise RuntimeError(f"the run did not begin: {said.strip()}")
            done = 0

            def finished():
                nonlocal done
                for line in shown(Path(f"{state}.log")).splitlines()[done:]:
                    say(line)
                    done += 1
                return done == rounds

            machines.until(finished, "the rounds do not advance", seconds=60 + 30 * rounds)
            machines.until(lambda: not Path(f"{state}.lock").exists(), "the server does not end")
        finally:
            machines.end()
        model, plan = models.logistic(13), Plan(lr=0.3, steps=5)
        found, _ = load(state, model)
        apart = float(np.abs(found.theta - fit(model, train, plan, rounds=rounds)[0].theta).max())
        say(f"{rounds} rounds; largest difference to the notebook's model: {apart:.1e}")
        return apart


def shown(path):
    """A log as text, or nothing yet."""
    return TEXT.sub("", path.read_text(errors="replace")) if path.exists() else ""


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m fedlearn_mini.network", description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--port", type=int, default=18443)
    options.add_argument("--folder", help="where keys, records and logs stay; without it they are deleted")
    demo(**vars(options.parse_args()))
