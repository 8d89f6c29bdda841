"""A study on the mini data: three rows of the quickstart's pair, a few iterations each."""

import json

import pytest
from mmengine.config import Config

from cankd.openmmlab.study import TIMED, WARM_UP, Study
from tests.demo import DATA, STUDENT, TEACHER, TEACHER_CKPT

MATRIX = """
mini:
  student: {student}
  teachers: {{teacher: {{config: {teacher}, checkpoint: {checkpoint}}}}}
  metric: coco/bbox_mAP
  severities: [4]
  rows:
    plain: {{seeds: 2}}
    cankd: {{seeds: 1, method: cankd, options: {{model.distiller.loss.loss_weight: 4}}}}
    longer: {{length: cankd}}
  tuning: {{rows: [cankd], weights: [0.5, 1], seeds: 1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini_data):
    """Matrix and student of a study of four iterations."""
    folder = tmp_path_factory.mktemp("study")
    schedule = "param_scheduler = [dict(type='OneCycleLR', eta_max=1e-3, total_steps=4, by_epoch=False)]"
    data = DATA.format(data=mini_data).replace("max_iters=1, val_interval=2", "max_iters=4, val_interval=4")
    logs = "default_hooks = dict(logger=dict(interval=1))"
    (folder / "student.py").write_text(f"_base_ = [{str(STUDENT)!r}]\n{data}\n{schedule}\n{logs}\n")
    names = dict(student=folder / "student.py", teacher=TEACHER, checkpoint=TEACHER_CKPT)
    (folder / "matrix.yml").write_text(MATRIX.format(**names))
    return folder


def _study(folder):
    return Study.read(folder / "matrix.yml", folder / "runs", folder / "records")


@pytest.fixture(scope="module")
def finished(folder, run_tool):
    """The study in three goes, and what they printed."""
    call = ("study.py", folder / "matrix.yml", "--out", folder / "runs", "--records", folder / "records")
    outputs = [
        run_tool(*call, "--only", "mini/plain/seed0").stdout,
        run_tool(*call, "--costs", "--only", "mini/plain/*", "mini/cankd/*").stdout,
        run_tool(*call).stdout,
    ]
    return _study(folder), outputs, run_tool(*call, "--list").stdout


def _record(study, name):
    row, seed = name.split("/")
    return json.loads((study.records / "mini" / f"{row}_{seed}.json").read_text())


def _first(study, name):
    return next(line for line in _record(study, name)["scalars"] if "loss" in line)


@pytest.mark.slow
def test_all_runs_are_recorded_once(finished):
    study, outputs, listed = finished
    names = {run.name for run in study.runs()}
    known = {"plain/seed0", "plain/seed1", "cankd/seed0", "longer/seed0", "cankd-try0.5/seed0", "cankd-try1/seed0"}
    assert {f"mini/{name}" for name in known} <= names
    assert "plain/seed0 begins" in outputs[0] and "plain/seed0" not in outputs[2]
    assert len(listed.splitlines()) == len(names) and "to do" not in listed
    for run in study.runs():
        record = json.loads(study.record(run).read_text())
        assert (record["data"], record["row"], record["seed"]) == ("mini", run.row, run.seed)
        assert record["environment"]["commit"] and record["peak_bytes"] > 1e8 and record["cpu_seconds"] > 0
        assert record["environment"]["command"] == f"python tools/study.py --only {run.name}"
        assert Config.fromstring(record["config"], ".py").randomness.seed == run.seed
        assert record["accuracy"] == 100 * record["results"].get("coco/bbox_mAP", 0.0)


@pytest.mark.slow
def test_rows_of_a_seed_start_from_the_same_weights_and_see_the_same_images(finished):
    study = finished[0]
    plain, other, distilled = (_first(study, name) for name in ("plain/seed0", "plain/seed1", "cankd/seed0"))
    task = [distilled[f"student.{name}"] for name in ("loss_cls", "loss_bbox")]
    assert task == pytest.approx([plain["loss_cls"], plain["loss_bbox"]], rel=1e-5)
    assert plain["loss_cls"] != pytest.approx(other["loss_cls"], rel=1e-3)


@pytest.mark.slow
def test_weights_are_chosen_on_images_that_were_not_trained_on(finished):
    study = finished[0]
    cfg = Config.fromstring(_record(study, "cankd-try0.5/seed0")["config"], ".py")
    assert {"type": "DistillWeightHook", "weight": 0.5} in cfg.custom_hooks
    parts = [cfg[f"{split}_dataloader"].dataset for split in ("train", "test")]
    files = [{image["file_name"] for image in json.loads(open(part.ann_file).read())["images"]} for part in parts]
    assert [len(names) for names in files] == [6, 2] and not files[0] & files[1]
    assert parts[0].data_prefix == parts[1].data_prefix and cfg.test_evaluator.ann_file == parts[1].ann_file


@pytest.mark.slow
def test_a_row_as_long_as_another_one_takes(finished):
    study = finished[0]
    rows = json.loads(study.costs("mini").read_text())["rows"]
    # Training steps alone: the validation at the end logs a time, too.
    assert {len(row["seconds"]) for row in rows.values()} == {3 * (TIMED - WARM_UP)}
    ratio = rows["cankd"]["median"] / rows["plain"]["median"]
    assert _record(study, "longer/seed0")["iterations"] == round(4 * ratio)


@pytest.mark.slow
def test_robustness_of_what_was_trained_here(finished, folder, run_tool, tmp_path):
    study = finished[0]
    call = ("study.py", folder / "matrix.yml", "--out", folder / "runs", "--records", folder / "records")
    for _ in range(2):
        printed = run_tool(*call, "--robustness", "--only", "mini/plain/seed1").stdout
    assert not printed
    elsewhere = ("--out", tmp_path, "--robustness", "--only", "mini/plain/seed0")
    assert run_tool(*call, *elsewhere).stdout.startswith("mini/plain/seed0 was not trained here: ")
    known = json.loads((study.records / "mini/robustness/plain_seed1.json").read_text())
    (results,) = known["models"].values()
    assert set(results["corrupted"]["fog"]) == {"4"} and len(results["corrupted"]) == 15
    assert known["environment"]["command"] == "python tools/study.py --robustness --only mini/plain/seed1"
    assert known["row"] == "plain" and results["checkpoint"].endswith("plain/seed1/iter_4.pth")


@pytest.mark.parametrize(
    "matrix, error",
    [
        ("mini: {student: a.py, metric: mIoU, rows: {}}", "mini has no teachers. Add what is missing."),
        (
            "mini: {student: a.py, teachers: {}, metric: mIoU, rows: {plain: {seed: 5}}}",
            "got mini.plain with seed, expected some of hooks, length, method, options, seeds, teacher, weight.",
        ),
        (
            "mini: {student: a.py, teachers: {small: {}, big: {}}, metric: mIoU, rows: {cankd: {method: cankd}}}",
            "got mini.cankd with the teacher teacher, expected one of small, big.",
        ),
        (
            "mini: {student: a.py, teachers: {teacher: {config: b.py}}, metric: mIoU, rows: {}}",
            "got mini.teacher with config, expected config, checkpoint.",
        ),
    ],
)
def test_a_faulty_matrix(matrix, error, tmp_path):
    (tmp_path / "matrix.yml").write_text(matrix)
    with pytest.raises(ValueError, match=error):
        Study.read(tmp_path / "matrix.yml", tmp_path, tmp_path)


def test_a_distillation_brings_its_teacher_along_unless_its_weights_are_there(tmp_path):
    teachers = {
        name: dict(config=f"{name}.py", checkpoint=str(tmp_path / f"{name}.pth")) for name in ("teacher", "small")
    }
    rows = dict(plain={}, cankd=dict(method="cankd"), weak=dict(method="cankd", teacher="small", seeds=2))
    matrix = dict(mini=dict(student="a.py", teachers=teachers, metric="mIoU", rows=rows))
    (tmp_path / "matrix.yml").write_text(json.dumps(matrix))
    study = Study.read(tmp_path / "matrix.yml", tmp_path / "runs", tmp_path / "records")

    def left(row):
        return [run.name for run in study.left(lambda run: run.row == row)]

    small, weak = study.left(lambda run: run.row == "weak")[:2]
    assert left("plain") == ["mini/plain/seed0"] and left("cankd") == ["mini/teacher/seed0", "mini/cankd/seed0"]
    assert left("weak") == ["mini/small/seed0", "mini/weak/seed0", "mini/weak/seed1"]
    assert study.lacks(weak) == "its teacher" and not study.lacks(small)
    (tmp_path / "small.pth").touch()
    assert left("weak") == ["mini/weak/seed0", "mini/weak/seed1"] and not study.lacks(weak) and left("small") == []


def test_no_such_run(run_tool):
    done = run_tool("study.py", "--only", "bccd/nothing", check=False)
    assert done.returncode == 1
    assert "--only: got bccd/nothing, which no run matches. --list prints their names." in done.stdout
