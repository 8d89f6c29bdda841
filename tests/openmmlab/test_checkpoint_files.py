"""Checkpoints are data: whichever way a name goes through mmengine, no code in the file runs."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import mmengine.hub
import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner.checkpoint import CheckpointLoader

from cankd.openmmlab import checkpoint_files as checkpoint
from cankd.openmmlab.checkpoint_files import UnsafeCheckpoint, load_checkpoint_file
from tests.demo import CANKD, Code
from tests.in_process import call_tool


@pytest.fixture()
def harmful(tmp_path):
    """A checkpoint that leaves a witness if its code runs, and the witness."""
    witness = tmp_path / "witness"
    torch.save({"state_dict": {"weight": torch.ones(1)}, "meta": {"x": Code(witness)}}, tmp_path / "harmful.pth")
    return tmp_path / "harmful.pth", witness


class ObjectStore(LocalBackend):
    """A store whose names are paths behind the scheme."""

    def get(self, filepath):
        return super().get(str(filepath).split("://", 1)[1])


@pytest.fixture()
def names(harmful, tmp_path, monkeypatch):
    """The file's name in each of mmengine's schemes, all of them on this machine."""
    file, _ = harmful
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    monkeypatch.chdir(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{file.name}"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    # mmengine's own lists of names, with this file beside theirs
    hub = tmp_path / "mmengine" / "hub"
    hub.mkdir(parents=True)
    for index in ("openmmlab", "mmcls", "deprecated", "torchvision_0.12"):
        entries = {"openmmlab": {"mine": url, "local": file.name}, "mmcls": {"mine": url}}.get(index, {})
        (hub / f"{index}.json").write_text(json.dumps(entries))
    monkeypatch.setattr(mmengine, "__path__", [str(hub.parent)])
    monkeypatch.setattr(checkpoint, "get_torchvision_models", lambda: {"mine": url})
    register_backend("petrel", ObjectStore, force=True, prefixes="s3")
    yield {
        "local": str(file), "http": url, "openmmlab": "open-mmlab://mine", "openmmlab in its folder": "openmmlab://local",
        "torchvision": "torchvision://mine", "modelzoo": "modelzoo://mine", "mmcls": "mmcls://mine", "ceph": f"s3://{file}",
    }  # fmt: skip
    server.shutdown()
    server.server_close()


def test_no_scheme_runs_code(names, harmful):
    file, witness = harmful
    for scheme, name in names.items():
        with pytest.raises(UnsafeCheckpoint, match="could run code"):
            CheckpointLoader.load_checkpoint(name)
        assert not witness.exists(), scheme
    torch.save({"state_dict": {"backbone.weight": torch.ones(2)}}, file)
    for cached in Path("torch").rglob("*.pth"):
        cached.unlink()
    for scheme, name in names.items():
        key = "weight" if scheme == "mmcls" else "backbone.weight"
        assert CheckpointLoader.load_checkpoint(name)["state_dict"][key].sum() == 2, scheme
    assert set(CheckpointLoader._schemes) - {"pavi://"} == {
        "", "http://", "https://", "open-mmlab://", "openmmlab://", "torchvision://", "modelzoo://", "mmcls://",
        r"(\S+\:)?s3://", r"(\S+\:)?petrel://",
    }  # fmt: skip


def test_pavi_is_refused_and_unknown_names_get_near_ones():
    with pytest.raises(ValueError, match="Fetch it by pavi's own tools"):
        CheckpointLoader.load_checkpoint("pavi://a.pth")
    with pytest.raises(ValueError, match="torchvision:// like .*resnet50"):
        CheckpointLoader.load_checkpoint("torchvision://resnet50x")


@pytest.mark.parametrize("content", ["empty", "text", "truncated", "no dict", "state_dict is a list"])
def test_what_is_no_checkpoint_is_told_from_what_is_unsafe(content, tmp_path):
    file = tmp_path / "a.pth"
    torch.save([1] if content == "no dict" else {"state_dict": [1]}, file)
    if content in ("empty", "text", "truncated"):
        file.write_bytes({"empty": b"", "text": b"hello world", "truncated": file.read_bytes()[:-50]}[content])
    with pytest.raises(ValueError, match="a.pth: (cannot be read|got a list)") as refused:
        load_checkpoint_file(file)
    assert not isinstance(refused.value, UnsafeCheckpoint)


def test_code_runs_only_where_the_user_says_so(harmful, monkeypatch):
    file, witness = harmful
    monkeypatch.setattr(checkpoint, "_trusted", False)
    done = call_tool("model_converters/convert_kd_ckpt_to_student.py", file, check=False)
    assert "harmful.pth: carries more than tensors" in done.stdout and not witness.exists()
    done = call_tool("model_converters/convert_kd_ckpt_to_student.py", file, "--trust-checkpoints", check=False)
    assert "not a distillation checkpoint" in done.stdout and witness.exists()


@pytest.mark.parametrize(
    "option", ["teacher_ckpt={}", "load_from={}", "model.architecture.init_cfg.checkpoint={}", "resume"]
)
def test_training_runs_no_code_from_a_checkpoint(option, harmful, mini_data, tmp_path):
    file, witness = harmful
    config = tmp_path / "config.py"
    initial = "model = dict(architecture=dict(init_cfg=dict(type='Pretrained', checkpoint='')))\n"
    config.write_text(
        f"_base_ = ['{CANKD}']\n{initial if 'init_cfg' in option else ''}"
        f"train_dataloader = dict(dataset=dict(data_root='{mini_data}/'))\n"
        f"val_dataloader = dict(dataset=dict(data_root='{mini_data}/'))\n"
        f"val_evaluator = dict(ann_file='{mini_data}/annotations/val.json')\n"
    )
    arguments = ["--resume"] if option == "resume" else ["--cfg-options", option.format(file)]
    if option == "resume":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "last_checkpoint").write_text(str(file))
    done = call_tool("train.py", config, "--work-dir", tmp_path / "run", *arguments, check=False)
    assert done.returncode == 1 and not witness.exists()
    assert "harmful.pth: carries more than tensors" in done.stdout.splitlines()[-1], done.stdout
