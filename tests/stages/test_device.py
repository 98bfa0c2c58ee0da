"""What a driver decides for processes on other hosts."""

from rlpost.cluster.session import Device
from rlpost.config.schema import RLConfig
from rlpost.rollout.generator_config import GeneratorDtype
from rlpost.stages.device import on_its_device
from rlpost.training.precision import has_cuda
from rlpost.training.settings import DType, TrainerConfig


def test_a_gpu_elsewhere_computes_in_bfloat16_where_nothing_else_is_said():
    cfg, device = on_its_device(RLConfig(), Device.cuda)
    assert device is Device.cuda
    if not has_cuda():
        assert (cfg.trainer.dtype, cfg.generator.dtype) == (DType.bfloat16, GeneratorDtype.bfloat16)
    given, _ = on_its_device(RLConfig(trainer=TrainerConfig(dtype=DType.float32)), Device.cuda)
    assert given.trainer.dtype is DType.float32
    cfg, device = on_its_device(RLConfig(), Device.cpu)
    assert (cfg.trainer.dtype, device) == (DType.auto, Device.cpu)
