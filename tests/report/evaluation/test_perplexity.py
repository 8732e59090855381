"""The section of losses by index, of tables that are made by hand."""

import re
from pathlib import Path

from report.evaluation.folder import open_folders
from report.evaluation.page import evaluation_page

HEADER = "model,length,yarn,start,stop,documents,nll,nll_se,perplexity,minus_without_yarn,minus_without_yarn_se\n"


def folder_of(path: Path, *rows: str) -> Path:
    path.mkdir()
    (path / "perplexity.csv").write_text(HEADER + "".join(f"m,{row}\n" for row in rows))
    return path


def test_each_model_has_a_curve_without_yarn_and_one_with_it(tmp_path: Path) -> None:
    own = [
        "512,,0,256,8,3.0,0.25,20.09,,",
        "512,,256,512,8,2.5,0.125,12.18,,",
        "512,2.0,256,512,8,2.25,0.125,9.49,-0.25,0.0625",
        "512,,0,512,8,2.75,0.1,15.6,,",
    ]
    text = evaluation_page(open_folders([folder_of(tmp_path / "<repo>", *own), folder_of(tmp_path / "rope", own[0])]))
    points = re.findall(r"<circle[^>]*><title>([^<]*)</title>", text)
    assert points == [
        "&lt;repo&gt;, 0-256: 3.000 ± 0.250",
        "&lt;repo&gt;, 256-512: 2.500 ± 0.125",
        "&lt;repo&gt;, YaRN 2, 256-512: 2.250 ± 0.125",
        "rope, 0-256: 3.000 ± 0.250",
    ]
    assert "<td>256-512</td><td>8</td><td>2.250 ± 0.125</td><td>9.49</td><td>-0.250 ± 0.062</td>" in text
    assert "<td>all</td><td>8</td><td>2.750 ± 0.100</td>" in text


def test_every_factor_of_yarn_has_dashes_of_its_own_and_the_models_colour(tmp_path: Path) -> None:
    rows = [f"512,{factor},0,512,8,3.0,0.25,20.09,," for factor in ("", "2.0", "4.0")]
    parts = [row.replace("0,512,8", f"{start},{stop},8") for row in rows for start, stop in ((0, 256), (256, 512))]
    text = evaluation_page(open_folders([folder_of(tmp_path / name, *parts) for name in ("repo", "rope")]))
    curves = re.findall(r"<polyline [^>]*stroke='([^']*)' (stroke-dasharray='[^']*'|stroke-opacity)", text)
    assert len(set(curves)) == len(curves) == 6 and len({color for color, _ in curves}) == 2
    keys = re.findall(r"stroke='([^']*)' stroke-width='2'( stroke-dasharray='[^']*')?/>[^>]*>[^>]*> ?([^<&]*)", text)
    assert {name.strip() for _, _, name in keys} >= {"repo", "repo, YaRN 2", "rope, YaRN 4"}
