"""torchvision's weights of a MobileNetV2 in mmdet's model."""

import pytest
import torch
import torchvision
from mmdet.models.backbones import MobileNetV2

from tests.in_process import call_tool

TOOL = "model_converters/mobilenet_from_torchvision.py"


@pytest.mark.slow
def test_mmdets_model_computes_what_torchvisions_does(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2().eval()
    for name, value in theirs.features.state_dict().items():
        if "running" in name or name.endswith((".1.weight", ".1.bias")):
            value.uniform_(0.5, 1.5)  # so that no two batch norms are alike
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    call_tool(TOOL, tmp_path / "torchvision.pth", tmp_path / "out.pth")
    own = MobileNetV2(out_indices=(7,))
    own.eval()
    own.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"])
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(own(image)[0], theirs.features(image))


def test_another_model_is_refused(tmp_path):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    done = call_tool(TOOL, tmp_path / "other.pth", tmp_path / "out.pth", check=False)
    assert done.returncode == 1 and not (tmp_path / "out.pth").exists()
    assert "got 50 tensors named features.*, expected the 312 of torchvision's mobilenet_v2" in done.stdout
