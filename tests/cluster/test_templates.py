"""The templates for clusters: the PaddleJob fits its public schema, the Slurm script restarts and stops."""

from __future__ import annotations

import copy
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "examples/cluster"
QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")

# What we use of the schema of PaddleJob (kubeflow.org/v1, Kubeflow training operator) and of a pod: a name followed by
# "!" is required, no other name is known. `[x]` is a list of x, `{str: x}` any names.
ENV = {"name!": str, "value": str}
PORT = {"containerPort!": int, "name": str}
MOUNT = {"mountPath!": str, "name!": str, "readOnly": bool, "subPath": str}
PROBE = {
    "exec": {"command": [str]},
    "initialDelaySeconds": int,
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
}
CONTAINER = {
    "name!": str,
    "image": str,
    "imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "command": [str],
    "args": [str],
    "env": [ENV],
    "ports": [PORT],
    "resources": {"limits": {str: QUANTITY}, "requests": {str: QUANTITY}},
    "livenessProbe": PROBE,
    "volumeMounts": [MOUNT],
}
VOLUME = {
    "name!": str,
    "emptyDir": {"medium": str, "sizeLimit": QUANTITY},
    "persistentVolumeClaim": {"claimName!": str, "readOnly": bool},
}
POD = {
    "containers!": [CONTAINER],
    "volumes": [VOLUME],
    "terminationGracePeriodSeconds": int,
    "nodeSelector": {str: str},
}
REPLICAS = {
    "replicas": int,
    "restartPolicy": ("Always", "OnFailure", "Never", "ExitCode"),
    "template": {"metadata": {"labels": {str: str}}, "spec": POD},
}
PADDLE_JOB = {
    "apiVersion": ("kubeflow.org/v1",),
    "kind": ("PaddleJob",),
    "metadata": {"name!": str, "namespace": str, "labels": {str: str}},
    "spec": {
        "paddleReplicaSpecs!": {"Master": REPLICAS, "Worker": REPLICAS},
        "runPolicy": {
            "activeDeadlineSeconds": int,
            "backoffLimit": int,
            "cleanPodPolicy": ("All", "Running", "None"),
            "suspend": bool,
            "ttlSecondsAfterFinished": int,
        },
        "elasticPolicy": {"minReplicas": int, "maxReplicas": int, "maxRestarts": int},
    },
}


def problems(value: Any, schema: Any, where: str = "") -> list[str]:
    """Return what is wrong with ``value``."""
    if isinstance(schema, type):
        is_right = isinstance(value, schema) and not (schema is int and isinstance(value, bool))
        return [] if is_right else [f"{where}: expected {schema.__name__}, got {value!r}"]
    if isinstance(schema, tuple):
        return [] if value in schema else [f"{where}: expected one of {schema}, got {value!r}"]
    if isinstance(schema, re.Pattern):
        is_right = not isinstance(value, bool) and schema.fullmatch(str(value)) is not None
        return [] if is_right else [f"{where}: expected a quantity, got {value!r}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: expected a list, got {value!r}"]
        return [found for i, item in enumerate(value) for found in problems(item, schema[0], f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where}: expected a mapping, got {value!r}"]
    if str in schema:
        return [
            found for key, item in value.items() for found in problems(item, schema[str], f"{where}.{key}")
        ]
    known = {name.rstrip("!"): part for name, part in schema.items()}
    missing = [name[:-1] for name in schema if name.endswith("!") and name[:-1] not in value]
    found = [f"{where}: expected the field {name}" for name in missing]
    for key, item in value.items():
        found += (
            problems(item, known[key], f"{where}.{key}")
            if key in known
            else [f"{where}: unknown field {key}"]
        )
    return found


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / "paddlejob.yaml").read_text())


def worker(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["paddleReplicaSpecs"]["Worker"]


def test_the_paddle_job_fits_the_schema(job: dict[str, Any]) -> None:
    assert problems(job, PADDLE_JOB) == []


def test_the_checker_finds_mistakes(job: dict[str, Any]) -> None:
    for change, message in [
        (lambda job: job["spec"].pop("paddleReplicaSpecs"), "expected the field paddleReplicaSpecs"),
        (lambda job: job.update(kind="PyTorchJob"), "kind: expected one of"),
        (lambda job: worker(job).update(restartpolicy="Never"), "unknown field restartpolicy"),
        (lambda job: worker(job).update(replicas="2"), "replicas: expected int, got '2'"),
        (lambda job: worker(job)["template"]["spec"].pop("containers"), "expected the field containers"),
        (
            lambda job: worker(job)["template"]["spec"]["containers"][0]["args"].append(8),
            "expected str, got 8",
        ),
    ]:
        wrong = copy.deepcopy(job)
        change(wrong)
        assert any(message in problem for problem in problems(wrong, PADDLE_JOB)), message


def test_the_paddle_job_restarts_what_exists(job: dict[str, Any]) -> None:
    assert worker(job)["restartPolicy"] == "OnFailure"
    assert job["spec"]["runPolicy"]["backoffLimit"] > 0
    (container,) = worker(job)["template"]["spec"]["containers"]
    assert container["name"] == "paddle"  # where the operator looks for the port of the rendezvous
    assert [port["name"] for port in container["ports"]] == ["master"]
    script = next(argument for argument in container["args"] if argument.endswith(".py"))
    assert (CLUSTER.parents[1] / script).is_file()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in worker(job)["template"]["spec"]["volumes"]}
    output = container["args"][container["args"].index("--output") + 1]
    assert any(output.startswith(mount["mountPath"]) for mount in container["volumeMounts"])
    assert f"{output}/history.jsonl" in container["livenessProbe"]["exec"]["command"][-1]
    gpus = str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert container["args"][container["args"].index("--nproc_per_node") + 1] == gpus


FAKES = {
    # Fails as often as the file says, and notes how it was called.
    "srun": 'echo "$@" >> "$FAKES/calls"\nleft=$(cat "$FAKES/failures")\n'
    "trap 'echo terminated >> \"$FAKES/calls\"; exit 143' TERM\n"
    'if [ "$left" = forever ]; then touch "$FAKES/started"; while :; do sleep 0.05; done; fi\n'
    'if [ "$left" -gt 0 ]; then echo $((left - 1)) > "$FAKES/failures"; exit 9; fi\n',
    "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "scontrol $*" >> "$FAKES/calls"; fi\n',
    "getent": 'echo "10.0.0.7 STREAM $2"\necho "10.0.0.7 DGRAM"\n',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on a cluster of shell scripts."""
    for name, text in FAKES.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FAKES": str(tmp_path),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": "123456",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_PER_NODE": "8",
    }


def start(slurm: dict[str, str], failures: str, **more: str) -> subprocess.Popen[str]:
    (Path(slurm["FAKES"]) / "failures").write_text(failures)
    command = ["bash", str(CLUSTER / "train.slurm"), "--output", "/shared/my run"]
    return subprocess.Popen(
        command, env=slurm | more, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def calls(slurm: dict[str, str]) -> list[str]:
    return (Path(slurm["FAKES"]) / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", sorted(path.name for path in CLUSTER.glob("*.slurm")))
def test_bash_can_read_the_slurm_script(script: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)
    text = (CLUSTER / script).read_text()
    assert text.startswith("#!/bin/bash\n")
    # Slurm reads its options only before the first command.
    commands = [i for i, line in enumerate(text.splitlines()) if line and not line.startswith("#")]
    options = [i for i, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")]
    assert max(options) < min(commands)


def test_a_failed_launch_is_repeated_on_another_port(slurm: dict[str, str]) -> None:
    process = start(slurm, "2")
    assert process.communicate(timeout=30)[1].count("failed with exit code 9; restart") == 2
    assert process.returncode == 0
    found = calls(slurm)
    assert len(found) == 3
    assert all("--nnodes 2 --nproc_per_node 8" in call for call in found)
    assert all(call.endswith("examples/cluster/train.py --output /shared/my run") for call in found)
    ports = [re.search(r"--master 10\.0\.0\.7:(\d+)", call)[1] for call in found]  # type: ignore[index]
    assert len(set(ports)) == 3
    assert all(1024 < int(port) < 65536 for port in ports)


def test_it_gives_up_after_so_many_restarts(slurm: dict[str, str]) -> None:
    process = start(slurm, "99", MAX_RESTARTS="2")
    assert "failed with exit code 9; given up after 2 restarts" in process.communicate(timeout=30)[1]
    assert process.returncode == 9
    assert len(calls(slurm)) == 3


def test_a_job_that_slurm_stops_is_queued_again_after_the_checkpoint(slurm: dict[str, str]) -> None:
    process = start(slurm, "forever")
    end = time.monotonic() + 30
    while not (Path(slurm["FAKES"]) / "started").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert calls(slurm)[-2:] == ["terminated", "scontrol requeue 123456"]
