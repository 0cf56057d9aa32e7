"""When a process joins others, and how many hosts a TPU slice has."""

import http.server
import threading

import jax
import pytest

from pvdm_jax.runtime import distributed

CLUSTER = (
    *("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"),
    *("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_COORDINATOR_ADDRESS"),
    *("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_SKIP_MDS_QUERY"),
)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}, None),  # a single task
        ({"JOB_COMPLETION_INDEX": "1"}, None),  # of an indexed job with independent pods
        ({"SLURM_STEP_NUM_TASKS": "2"}, (None, None, None)),  # JAX asks Slurm for the rest
        ({"OMPI_COMM_WORLD_SIZE": "2"}, (None, None, None)),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, (None, None, None)),  # a GKE slice
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_COORDINATOR_ADDRESS": "b"}, (None, None, None)),  # several slices
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3"},
            ("a:1", 4, 3),  # a JobSet on GPUs
        ),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, ("a:1", 2, 0)),
    ],
)
def test_a_run_of_several_processes_is_recognised(monkeypatch, environment, expected):
    for name in CLUSTER:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **values: calls.append(tuple(values.values())))
    distributed.start_distributed()
    assert calls == ([] if expected is None else [expected])


def test_a_tpu_vm_asks_the_metadata_server(monkeypatch):
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Metadata-Flavor"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a:b:10.0.0.1,a:b:10.0.0.2")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_address[1]}"}
        assert distributed.tpu_hosts(environment, has_chips=lambda: True) == 2
        assert asked == [("/computeMetadata/v1/instance/attributes/worker-network-endpoints", "Google")]
        for others, chips in (({}, False), ({"JAX_PLATFORMS": "cpu"}, True), ({"TPU_SKIP_MDS_QUERY": "1"}, True)):
            assert distributed.tpu_hosts(environment | others, has_chips=lambda chips=chips: chips) == 1
        server.shutdown()
    assert len(asked) == 1
    assert distributed.tpu_hosts(environment, has_chips=lambda: True) == 1  # no server answers


def test_what_the_first_process_says_arrives_unchanged():
    value = {"step": 3, "mean": [0.1, 1e-30], "name": "é", "none": None}
    assert distributed.broadcast_json(value) == value
