"""torchvision's weights of a MobileNetV2 in the libraries' models."""

import mmdet.models
import mmseg.models
import pytest
import torch
import torchvision

from tests.in_process import call_tool

TOOL = "model_converters/mobilenet_from_torchvision.py"


@pytest.mark.slow
@pytest.mark.parametrize(("library", "models", "end"), [("mmdet", mmdet.models, None), ("mmseg", mmseg.models, -1)])
def test_the_librarys_model_computes_what_torchvisions_does(tmp_path, library, models, end):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2().eval()
    for name, value in theirs.features.state_dict().items():
        if "running" in name or name.endswith((".1.weight", ".1.bias")):
            value.uniform_(0.5, 1.5)  # so that no two batch norms are alike
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    call_tool(TOOL, tmp_path / "torchvision.pth", tmp_path / "out.pth", "--library", library)
    own = models.backbones.MobileNetV2(out_indices=(0, 6 if end else 7))
    own.eval()
    own.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True)["state_dict"])
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(own(image)[1], theirs.features[:end](image))


def test_another_model_is_refused(tmp_path):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "other.pth")
    done = call_tool(TOOL, tmp_path / "other.pth", tmp_path / "out.pth", check=False)
    assert done.returncode == 1 and not (tmp_path / "out.pth").exists()
    assert "got 50 tensors named features.*, expected the 312 of torchvision's mobilenet_v2" in done.stdout
