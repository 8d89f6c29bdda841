from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from mmengine.logging import HistoryBuffer
from mmengine.utils import is_installed
from mmrazor.registry import MODELS

from cankd.openmmlab.compat import CLASSIFICATION, safe_pickle, versions
from cankd.openmmlab.models import stock_model


def test_importing_the_wing_registers_mmrazor_and_us():
    code = (
        "import cankd.openmmlab; from mmrazor.registry import MODELS, TASK_UTILS\n"
        "for name in ('FpnTeacherDistill', 'SingleTeacherDistill', 'ConfigurableDistiller', 'PKDLoss', 'NLKDINLoss'):\n"
        "    assert MODELS.get(name), name\n"
        "assert TASK_UTILS.get('ModuleOutputsRecorder')\n"
        "import logging; from mmengine.logging import print_log\n"
        "print_log('still heard', logger='current', level=logging.WARNING)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE, check=True)
    # One line: the libraries print nothing, and the default logger still does.
    assert len(done.stdout.strip().splitlines()) == 1 and b"still heard" in done.stdout


def test_the_version_of_mmcv_is_left_as_it_was():
    import mmcv
    from mmcv.version import __version__

    assert mmcv.__version__ == __version__


def test_missing_libraries_are_named_with_the_cure(monkeypatch):
    monkeypatch.setattr(versions, "TESTED", {"torch": ("2.",), "no_such_library": ("1.",)})
    with pytest.raises(ImportError, match="cannot find: no_such_library.*setup_env.sh"):
        versions.check_installed()


def test_stock_configurations_are_found_without_an_installation(monkeypatch):
    def refuse(*_):
        raise AssertionError("would install a package at run time")

    monkeypatch.setattr("mmengine.utils.package_utils.call_command", refuse)
    assert all(is_installed(MODULE2PACKAGE[name]) for name in ("mmdet", "mmseg", "mmrazor"))
    assert get_config("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py").model.type == "EncoderDecoder"
    assert get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model.type == "RetinaNet"


def test_a_base_of_a_package_is_found_without_reading_its_metafiles(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("would read all metafiles, which takes 0.3 s for each base")

    monkeypatch.setattr("mmengine.config.utils._get_cfg_metainfo", refuse)
    config = tmp_path / "mine.py"
    config.write_text('_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"\n')
    cfg = Config.fromfile(config)
    assert (cfg.model.type, cfg.model._scope_) == ("RetinaNet", "mmdet")


def test_a_configuration_is_formatted_again_only_if_it_has_changed():
    config = Config({"model": {"type": "A", "size": 1}})
    first = config.pretty_text
    assert first is config.pretty_text and "size=1" in first
    config.model.size = 2
    assert "size=2" in config.pretty_text
    config.model.size = 1
    assert config.pretty_text == first


def test_a_missing_package_is_named_instead_of_installed():
    assert not is_installed("mmpose")
    with pytest.raises(ImportError, match="names the package 'mmpose', which is not installed"):
        stock_model("mmpose::body/hrnet.py")


@pytest.mark.parametrize("name", ["mmcls", "mmpretrain"])
def test_either_name_of_the_classification_library_means_the_installed_one(name, tmp_path):
    model = stock_model(f"{name}::resnet/resnet18_8xb32_in1k.py", head={"num_classes": 7})
    assert type(model).__module__.startswith(f"{CLASSIFICATION}.") and model.head.fc.out_features == 7
    config = tmp_path / "recipe.py"
    config.write_text(f"_base_ = ['{name}::_base_/datasets/imagenet_bs32.py']\ntrain_dataloader = dict(batch_size=3)\n")
    loader = Config.fromfile(config).train_dataloader
    assert (loader.batch_size, loader.dataset._scope_, loader.dataset.type) == (3, CLASSIFICATION, "ImageNet")


def test_only_functions_of_the_two_known_families_pass_as_getattr():
    assert safe_pickle._method_of_known_class(HistoryBuffer, "mean") is HistoryBuffer.mean
    for owner, name in ((torch, "load"), (HistoryBuffer, "__class__"), (HistoryBuffer.mean, "__globals__")):
        with pytest.raises(pickle.UnpicklingError, match="not allowed"):
            safe_pickle._method_of_known_class(owner, name)


def test_quantisation_is_replaced_only_by_classes():
    module = sys.modules["mmrazor.structures.quantization"]
    assert isinstance(module.BackendConfigs, (type, dict))
    assert MODELS.get("ConfigurableDistiller") is not None


@pytest.mark.parametrize("loss", ["ChannelWiseDivergence", "L2Loss"])
def test_mmrazors_losses_take_maps_whose_channels_lie_last(loss):
    built, maps = MODELS.build(dict(type=loss)), torch.randn(2, 2, 3, 4, 5)
    last = [feature.to(memory_format=torch.channels_last) for feature in maps]
    assert torch.equal(built(*last), built(*maps)) and not last[0].is_contiguous()


def test_checkpoints_of_mmengine_load_safely(tmp_path):
    history = HistoryBuffer()
    for value in (1.0, np.float64(2.0)):
        history.update(value)
    file = str(tmp_path / "run.pth")
    torch.save({"message_hub": {"log_scalars": {"loss": history}}, "state_dict": {"weight": torch.ones(3)}}, file)
    loaded = safe_pickle.load_safely(file)
    assert loaded["message_hub"]["log_scalars"]["loss"].mean() == 1.5
    assert torch.equal(loaded["state_dict"]["weight"], torch.ones(3))


class _Malicious:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.parametrize("container", ["zip", "plain pickle"])
def test_code_in_a_checkpoint_is_refused(tmp_path, capsys, container):
    file = str(tmp_path / "malicious.pth")
    content = {"state_dict": {"weight": _Malicious()}}
    if container == "zip":
        torch.save(content, file)
    else:
        Path(file).write_bytes(pickle.dumps(content))
    with pytest.raises(Exception, match="(?i)unpickl|not allowed|weights"):
        safe_pickle.load_safely(file)
    assert "code from a checkpoint" not in capsys.readouterr().out


def test_dino_has_the_same_tensors_on_both_stacks_and_as_published():
    model = stock_model("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", backbone=dict(init_cfg=None))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    # dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth; mmdet releases that widened it load it only partly
    assert shapes["decoder.ref_point_head.layers.0.weight"] == (256, 512)
    # All 627 names and shapes, recorded on the paper stack.
    text = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    digest = "c652b527ba1b8398010ad79241c3bfd6c7975184eebd87238d4b5bd7d521518f"
    assert hashlib.sha256(text.encode()).hexdigest() == digest
