"""How an SGLang server is set up."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from listening import listeners
from torch.distributed import rendezvous

from rlpost.errors import UserError
from rlpost.models.shape import ModelShape
from rlpost.network import free_port, interface_to
from rlpost.rollout.device_defaults import with_device_defaults
from rlpost.rollout.generator_config import Backend, GeneratorConfig, GeneratorDtype
from rlpost.rollout.sglang.command import (
    command,
    environment,
    require_deterministic,
    settings,
    write_settings,
)
from rlpost.rollout.sglang.config import SglangConfig

SHAPE = ModelShape(
    parameters=10**6,
    layers=4,
    width=64,
    feed_forward=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary=320,
)


def resolved(*, on_gpu, **options):
    cfg = GeneratorConfig(
        backend=Backend.sglang, dtype=GeneratorDtype.bfloat16, max_model_len=512, **options
    )
    return with_device_defaults(cfg, on_gpu=on_gpu, cores=2)


def chosen(cfg, *, on_gpu):
    return settings(cfg, model_path="/m", shape=SHAPE, port=7, key="k", on_gpu=on_gpu)


def told(cfg, *, meeting=Path("/m/workers")):
    return environment(cfg, meeting=meeting, port=7, on_gpu=False)


def test_every_option_of_a_generator_reaches_the_server():
    plain = chosen(resolved(on_gpu=True), on_gpu=True)
    changes = {
        "dtype": (GeneratorDtype.float32, "dtype"),
        "max_model_len": (64, "context-length"),
        "max_num_seqs": (3, "max-running-requests"),
        "max_num_batched_tokens": (99, "chunked-prefill-size"),
        "kv_cache_gib": (2, "max-total-tokens"),
        "gpu_memory_utilization": (0.5, "mem-fraction-static"),
        "tensor_parallel_size": (2, "tp-size"),
        "enforce_eager": (True, "cuda-graph-backend-decode"),
        "sglang": (SglangConfig(deterministic=True), "enable-deterministic-inference"),
    }
    for option, (value, name) in changes.items():
        cfg = replace(resolved(on_gpu=True), **{option: value})
        assert chosen(cfg, on_gpu=True).get(name) != plain.get(name), option
    for threads in (1, 2):
        cfg = resolved(on_gpu=False, threads=threads)
        assert told(cfg)["OMP_NUM_THREADS"] == str(threads)


def test_a_cache_is_given_in_tokens():
    """2 bytes x 4 layers x 2 of 2 heads of 16 values: 512 bytes a token."""
    cfg = resolved(on_gpu=False, kv_cache_gib=1)
    assert chosen(cfg, on_gpu=False)["max-total-tokens"] == 2**30 // 512
    halved = replace(cfg, tensor_parallel_size=2)
    assert chosen(halved, on_gpu=False)["max-total-tokens"] == 2**30 // 256


def test_nobody_else_reads_the_key(tmp_path):
    file = tmp_path / "settings.yaml"
    cfg = resolved(on_gpu=False)
    write_settings(chosen(cfg, on_gpu=False), file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    written = yaml.safe_load(file.read_text())
    assert (written["api-key"], written["host"], written["device"]) == ("k", "127.0.0.1", "cpu")
    assert "device" not in chosen(resolved(on_gpu=True), on_gpu=True)
    line = command("python", file, ["--attention-backend", "triton"])
    assert line[1:3] == ["-m", "sglang.launch_server"] and line[-1] == "triton"
    assert "k" not in line


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (["--tp-size", "2"], "generator.tensor_parallel_size"),
        (["--mem_fraction_static=0.9"], "generator.gpu_memory_utilization"),
        (["--host", "0.0.0.0"], "this host alone"),
        (
            ["--hos", "0.0.0.0"],
            "must not set --host, got --hos: .*this host alone",
        ),  # argparse takes it
        (["--preferred-sampling-params={}"], "each request says how it is sampled"),
        (["--data-parallel-size", "2"], "generator.num"),
    ],
)
def test_arguments_that_other_options_decide_are_refused(arguments, way_out):
    with pytest.raises(UserError, match=way_out):
        SglangConfig(arguments=arguments).check("generator.sglang")
    SglangConfig(arguments=["--attention-backend", "triton"]).check("generator.sglang")


def test_options_of_a_backend_that_is_not_chosen_are_refused():
    with pytest.raises(UserError, match=r"sglang\.\* has no effect with g\.backend=vllm"):
        GeneratorConfig(sglang=SglangConfig(deterministic=True)).check("g")
    GeneratorConfig(backend=Backend.sglang, sglang=SglangConfig(deterministic=True)).check("g")


def test_parts_of_a_server_meet_over_loopback(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")  # the network of the ranks
    found = told(resolved(on_gpu=False))
    loopback = interface_to("127.0.0.1")
    assert (found["GLOO_SOCKET_IFNAME"], found["NCCL_SOCKET_IFNAME"]) == (loopback, loopback)


def test_workers_meet_where_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")  # of the ranks
    found = told(resolved(on_gpu=False), meeting=tmp_path / "workers")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("127.0.0.1", "7")
    before = listeners()
    url = found["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"]
    store, rank, world_size = next(rendezvous(url, 0, 1))
    store.set("here", "yes")
    assert (store.get("here"), rank, world_size) == (b"yes", 0, 1) and listeners() == before
    free = free_port()  # the negative control: what SGLang does by itself
    store, *_ = next(rendezvous(f"tcp://127.0.0.1:{free}", 0, 1))
    assert {port for host, port in listeners() - before if host != "127.0.0.1"} == {free}


def test_log_probs_are_the_samplers_whatever_the_shell_says(monkeypatch):
    monkeypatch.setenv("SGLANG_RETURN_ORIGINAL_LOGPROB", "1")
    found = told(resolved(on_gpu=False))
    assert found["SGLANG_RETURN_ORIGINAL_LOGPROB"] == "0"


def test_seeds_need_a_gpu():
    cfg = resolved(on_gpu=True, sglang=SglangConfig(deterministic=True))
    require_deterministic(cfg, on_gpu=True)
    with pytest.raises(UserError, match=r"deterministic=true needs cluster\.device=cuda"):
        require_deterministic(cfg, on_gpu=False)
